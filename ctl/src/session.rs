//! Asks the agent, one request a connection, with one identity after the other until it takes one: its hello does not tell whose
//! signatures it takes. Shows nothing but a sign of life.

use std::path::Path;

use nix::unistd::Uid;
use sshfix_policy::access_proof::{self, AccessProof};
use sshfix_policy::reply::{Body, ErrorCode, ErrorDocument};
use sshfix_policy::request::wire::Hello;
use sshfix_policy::request::{Decision, Mode, Operation};

use crate::cli::{Ask, Globals, Wish};
use crate::client::{Agent, Answer, ClientError};
use crate::identities::{self, Places};
use crate::origin::Origin;
use crate::progress::Progress;
use crate::sign::Identity;
use crate::{kex, origin, text};

/// How many identities are offered to the agent before giving up; each refusal is a record in its audit log.
const IDENTITIES_MAX: usize = 8;

/// Who asks whom.
#[derive(Debug)]
pub struct Session {
    agent: Agent,
    identities: Vec<Identity>,
    found: usize,
    notes: Vec<String>,
    origin: Origin,
    verbose: bool,
}

impl Session {
    /// Finds the agent's key and the identities. Connects to nobody yet.
    pub fn open(globals: &Globals) -> Result<Self, ErrorDocument> {
        let places = Places::from_env();
        let mut notes = Vec::new();
        let agent = Agent::from_env(globals.timeout).map_err(|error| error.document())?;
        let mut identities = match &globals.identity {
            Some(file) => identities::named(file, &places).map_err(|error| {
                ErrorDocument::new(ErrorCode::Usage, format!("{error}. Nothing was changed."), "--identity names a key file.")
            })?,
            None => identities::all(&places, &mut notes),
        };
        let found = identities.len();
        identities.truncate(IDENTITIES_MAX);
        Ok(Self { agent, identities, found, notes, origin: origin::origin(), verbose: globals.verbose })
    }

    /// Asks on a fresh connection. A confirm is asked for without a proof first: where the agent is busy, or does not take it whatever is
    /// proven, the SSH port is left alone.
    pub fn ask(&mut self, wish: &Wish) -> Result<Answer, ErrorDocument> {
        let (id, reason) = match wish {
            Wish::Ask(ask) => return self.ask_with_any(&|_| Ok(ask.clone())),
            Wish::Confirm { id, reason } => (id, reason.as_deref()),
        };
        let answer = self.ask_with_any(&|_| Ok(confirm(id, None, reason)))?;
        match &answer.body {
            Body::Error(error) if error.code == ErrorCode::ProofNeeded => {
                self.ask_with_any(&|hello| Ok(confirm(id, Some(prove(id, hello)?), reason)))
            }
            _ => Ok(answer),
        }
    }

    /// The identity that the agent takes is the only one that is used from then on.
    fn ask_with_any(&mut self, asked: &Asked<'_>) -> Result<Answer, ErrorDocument> {
        let mut refused: Option<Answer> = None;
        let mut failed: Option<ClientError> = None;
        let mut tried = Vec::new();
        for index in 0..self.identities.len() {
            let Some(identity) = self.identities.get_mut(index) else { break };
            match ask_with(&self.agent, asked, &self.origin, identity) {
                Ok(answer) if is_refusal(&answer) => {
                    tried.push(identity.describe());
                    refused = Some(answer);
                }
                Ok(answer) => {
                    if self.verbose {
                        eprintln!("signed with {}", text::line(&identity.describe()));
                    }
                    self.identities.swap(0, index);
                    self.identities.truncate(1);
                    return Ok(answer);
                }
                // This identity cannot sign; another may.
                Err(ClientError::Sign(error)) => {
                    self.notes.push(error.to_string());
                    failed = Some(ClientError::Sign(error));
                }
                Err(error) => return Err(error.document()),
            }
        }
        match (refused, failed) {
            (Some(answer), _) => Err(self.refusal(&answer, &tried)),
            (None, Some(error)) if self.found == 1 => Err(error.document()),
            (None, _) => Err(no_identity(&self.notes)),
        }
    }

    fn refusal(&self, answer: &Answer, tried: &[String]) -> ErrorDocument {
        let Body::Error(error) = &answer.body else { return no_identity(&self.notes) };
        let mut parts = vec![
            format!("{}.", error.message.as_str().trim_end_matches('.')),
            format!("Identities tried: {}.", tried.join(", ")),
        ];
        if self.found > IDENTITIES_MAX {
            parts.push(format!("{} more were not tried.", self.found - IDENTITIES_MAX));
        }
        parts.extend(self.notes.iter().map(|note| format!("Not tried: {note}.")));
        ErrorDocument { message: parts.join(" ").into(), ..error.clone() }
    }
}

/// What is asked on the connection of a hello.
type Asked<'a> = dyn Fn(&Hello) -> Result<Ask, ClientError> + 'a;

fn ask_with(agent: &Agent, asked: &Asked<'_>, origin: &Origin, identity: &mut Identity) -> Result<Answer, ClientError> {
    identity.unlock()?;
    let question = agent.question(asked, origin, identity)?;
    let _progress = Progress::start("waiting for the agent");
    question.send()
}

fn confirm(id: &str, proof: Option<AccessProof>, reason: Option<&str>) -> Ask {
    let operation = Operation::Decision(Decision::Confirm { id: id.to_owned(), proof: proof.map(Box::new) });
    Ask { operation, mode: Mode::DryRun, reason: reason.map(str::to_owned) }
}

/// The proof for the connection of this hello: another one, to the SSH port. Says by which way, where it is not the usual one.
fn prove(id: &str, hello: &Hello) -> Result<AccessProof, ClientError> {
    let progress = Progress::start("asking the SSH port for the host's signature");
    let cookie = access_proof::cookie(id, hello.challenge.bytes());
    let kex::Proven { proof, way, usual } =
        kex::prove_somehow(hello.ssh_port, &cookie).map_err(|why| ClientError::Access { id: id.to_owned(), why })?;
    drop(progress);
    if let Some(usual) = usual {
        eprintln!("note: {}; the proof was made {way}", text::line(&usual));
    }
    Ok(proof)
}

fn is_refusal(answer: &Answer) -> bool {
    matches!(&answer.body, Body::Error(error) if error.code == ErrorCode::Refused)
}

fn no_identity(notes: &[String]) -> ErrorDocument {
    let mut parts = vec!["no key to sign the request with. Nothing was changed.".to_owned()];
    parts.extend(notes.iter().map(|note| format!("({note})")));
    let key = identities::ROOT_KEY;
    let advice = if Uid::effective().is_root() && !Path::new(key).exists() {
        format!("`sshfix-agent init` makes root's key, {key}. Or name a key with --identity FILE.")
    } else {
        format!("Name a key with --identity FILE, add one to ssh-agent, or run as root, who has {key}.")
    };
    ErrorDocument::new(ErrorCode::Failed, parts.join(" "), advice)
}
