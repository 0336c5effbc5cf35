//! What keeps a change and what does not.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use ssh_key::PrivateKey;
use sshfix::kex;
use sshfix_policy::access_proof::{self, AccessProof};
use sshfix_policy::request::wire::{Hello, SignedRequest};
use sshfix_policy::request::{Decision, Mode, Operation, PROTOCOL, REQUEST_NAMESPACE, Request};
use sshfix_policy::ssh::sshsig;
use sshfix_tests::lab::Server;

use super::{WITHIN, on_both, one, pending, pending_for, state, taken_back};

/// One connection to the agent, its hello read.
struct Connection {
    stream: UnixStream,
    hello: Hello,
}

impl Connection {
    fn open(server: &Server) -> Self {
        let mut stream = UnixStream::connect(server.path("/run/sshfix/agent.sock")).unwrap();
        stream.set_read_timeout(Some(Duration::from_mins(1))).unwrap();
        let hello = Hello::decode(&frame(&mut stream)).unwrap();
        Self { stream, hello }
    }

    fn request(&self, operation: Operation) -> Request {
        let id = u128::from_be_bytes(std::array::from_fn(|_| rand()));
        Request {
            protocol: PROTOCOL,
            host: self.hello.host.clone(),
            id: format!("{id:032x}"),
            challenge: self.hello.challenge.to_string(),
            valid_for: 60,
            principal: None,
            operation,
            mode: Mode::DryRun,
            reason: None,
            from: None,
            from_user: None,
        }
    }

    /// Signs as root, sends, and gives the document of the answer.
    fn ask(mut self, server: &Server, operation: Operation) -> Value {
        let payload = serde_json::to_vec(&self.request(operation)).unwrap();
        self.send(&signed(server, payload))
    }

    fn send(&mut self, bytes: &[u8]) -> Value {
        self.stream.write_all(bytes).unwrap();
        let body = frame(&mut self.stream);
        let length = u32::from_be_bytes(body[..4].try_into().unwrap()) as usize;
        let reply: Value = serde_json::from_slice(&body[4..4 + length]).unwrap();
        reply["body"].clone()
    }

    /// A proof for this change and this connection, made in the server itself.
    fn proof(&self, server: &Server, id: &str) -> AccessProof {
        let net = File::open(format!("/proc/{}/ns/net", server.leader())).unwrap();
        let cookie = access_proof::cookie(id, self.hello.challenge.bytes());
        let prove = move || {
            setns(net, CloneFlags::CLONE_NEWNET).unwrap();
            kex::prove(&["127.0.0.1:22".parse().unwrap()], &cookie, Duration::from_secs(20)).unwrap()
        };
        std::thread::spawn(prove).join().unwrap()
    }
}

fn rand() -> u8 {
    let mut byte = [0];
    File::open("/dev/urandom").unwrap().read_exact(&mut byte).unwrap();
    byte[0]
}

fn frame(stream: &mut UnixStream) -> Vec<u8> {
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).unwrap();
    let mut body = vec![0; u32::from_be_bytes(prefix) as usize];
    stream.read_exact(&mut body).unwrap();
    body
}

fn signed(server: &Server, payload: Vec<u8>) -> Vec<u8> {
    let key = PrivateKey::from_openssh(server.read("/etc/sshfix/ctl_ed25519")).unwrap();
    let signature = sshsig::sign(&key, REQUEST_NAMESPACE, &payload).unwrap();
    SignedRequest::new(payload, signature).encode().unwrap()
}

#[track_caller]
fn not_confirmed(answer: &Value, word: &str) {
    assert_eq!(answer["code"], "not-confirmed", "{answer:#}");
    assert!(answer["message"].as_str().unwrap().contains(word), "`{word}` is not in: {answer:#}");
}

#[test]
fn only_a_confirm_with_a_proof_of_access_over_a_new_connection_counts() {
    on_both(|server| {
        let before = Connection::open(server);
        let id =
            server.ctl(&["hosts", "deny", "203.0.113.70", "--json"]).expect_status(5).json()["id"].as_str().unwrap().to_owned();
        let confirm = |id: &str, proof: AccessProof| {
            Operation::Decision(Decision::Confirm { id: id.to_owned(), proof: Some(Box::new(proof)) })
        };

        // Over a connection that was there before the change.
        let proof = before.proof(server, &id);
        not_confirmed(&before.ask(server, confirm(&id, proof)), "made before the change");
        // With a proof that was made for another connection, or for another change.
        let other = Connection::open(server).proof(server, &id);
        not_confirmed(&Connection::open(server).ask(server, confirm(&id, other.clone())), "proof of access");
        let connection = Connection::open(server);
        let wrong = connection.proof(server, "0000000000");
        not_confirmed(&connection.ask(server, confirm(&id, wrong)), "proof of access");
        // For a change that is not there.
        let connection = Connection::open(server);
        let proof = connection.proof(server, "0000000000");
        let answer = connection.ask(server, confirm("0000000000", proof));
        assert!(answer["message"].as_str().unwrap().contains("there is no change 0000000000"), "{answer:#}");
        // Without any proof it is no confirm at all: nobody could have meant it.
        let mut connection = Connection::open(server);
        let request = serde_json::to_value(connection.request(confirm(&id, other))).unwrap();
        let mut without = request.clone();
        without["operation"]["confirm"].as_object_mut().unwrap().remove("proof");
        let answer = connection.send(&signed(server, serde_json::to_vec(&without).unwrap()));
        assert_eq!(answer["code"], "refused", "{answer:#}");
        assert_eq!(state(server, &id), "pending", "it waits all the same");

        // The real one counts once; the very bytes again, on the next connection, do not.
        let mut connection = Connection::open(server);
        let proof = connection.proof(server, &id);
        let bytes = signed(server, serde_json::to_vec(&connection.request(confirm(&id, proof))).unwrap());
        assert_eq!(connection.send(&bytes)["state"], "confirmed");
        assert_eq!(state(server, &id), "confirmed");
        let replayed = Connection::open(server).send(&bytes);
        assert_eq!(replayed["code"], "refused", "{replayed:#}");
        let again = server.ctl(&["confirm", &id, "--json"]);
        again.expect_error(3, "not-confirmed", &["it is confirmed"]);
        assert!(!server.ssh("203.0.113.70").ok && server.ssh("203.0.113.7").ok);
    });
}

#[test]
fn a_confirm_of_another_principal_counts_only_with_the_grant_for_it() {
    on_both(|server| {
        server
            .sh("useradd -m -s /bin/bash -G sshfix ops && su ops -c 'ssh-keygen -q -t ed25519 -N \"\" -f ~/.ssh/id_ed25519'")
            .expect_ok();
        let key = server.read("/home/ops/.ssh/id_ed25519.pub");
        let signers = server.read("/etc/sshfix/allowed_signers");
        server
            .write("/etc/sshfix/allowed_signers", format!("{signers}ops {}", key.rsplit_once(' ').unwrap().0.to_owned() + "\n"));
        let grants = server.read("/etc/sshfix/policy.toml");
        let grant = |actions: &str| {
            server.write("/etc/sshfix/policy.toml", format!("{grants}\n[[grant]]\nprincipal = \"ops\"\nactions = [{actions}]\n"));
        };
        grant("\"hosts-deny\", \"diagnose\"");
        let ops = |arguments: &str| {
            let output = server.run(&["su", "ops", "-c", &format!("sshfix ctl {arguments} --json")]);
            sshfix_tests::lab::CtlResult {
                status: output.status,
                stdout: output.stdout,
                stderr: output.stderr,
                time: output.elapsed,
            }
        };
        let id =
            server.ctl(&["hosts", "deny", "203.0.113.70", "--json"]).expect_status(5).json()["id"].as_str().unwrap().to_owned();
        ops(&format!("confirm {id}")).expect_error(3, "not-confirmed", &["it belongs to root", "ops"]);
        ops(&format!("rollback {id}")).expect_error(1, "failed", &["it belongs to root"]);
        // One at a time: who, and for how long still. Questions and dry runs go on.
        let busy = ops("hosts deny 203.0.113.8");
        busy.expect_error(1, "busy", &[&id, "of root is pending", " s; nothing was changed"]);
        let change = &busy.json()["change"];
        assert_eq!(
            (&change["id"], &change["principal"], &change["state"]),
            (&id.as_str().into(), &"root".into(), &"pending".into())
        );
        assert!((1..=120).contains(&change["seconds_left"].as_u64().unwrap()), "{change:#}");
        assert_eq!(ops("diagnose 203.0.113.70").status, 8);
        assert_eq!(ops("hosts deny 203.0.113.8 --dry-run").status, 0);
        let status = server.ctl(&["status", "--json"]).expect_status(0).json();
        assert_eq!((&status["pending"], &status["waiting"][0]["id"]), (&id.as_str().into(), &id.as_str().into()));

        grant("\"confirm-any\"");
        let confirmed = ops(&format!("confirm {id}")).expect_status(0).json();
        assert_eq!(confirmed["state"], "confirmed", "{confirmed:#}");
        // Whoever may make a change may confirm it, and nobody else's.
        grant("\"hosts-deny\"");
        let own = ops("hosts deny 203.0.113.8").expect_status(5).json()["id"].as_str().unwrap().to_owned();
        ops(&format!("confirm {own}")).expect_status(0);
    });
}

/// At a terminal (script(1) makes one) `ctl` shows the countdown, asks, and makes the new connections itself.
#[test]
fn at_a_terminal_ctl_offers_the_confirm_itself() {
    on_both(|server| {
        // The key is typed once it is asked for, and the keyboard stays until ctl ends.
        let asked = |within: &str, key: &str| {
            server.sh(&format!(
                "rm -f /run/keyboard /run/screen; mkfifo /run/keyboard; : >/run/screen
                 script --quiet --return --flush --command 'sshfix ctl hosts deny 203.0.113.70 --confirm-within {within}' /dev/null \\
                     </run/keyboard >/run/screen & ctl=$!
                 exec 3>/run/keyboard
                 while kill -0 $ctl && ! grep -q 'rolled back automatically in' /run/screen; do sleep 0.1; done
                 printf '{key}' >&3; status=0; wait $ctl || status=$?; cat /run/screen; exit $status"
            ))
        };
        let kept = asked("100s", "y\\n");
        assert_eq!(kept.status, 0, "{kept:#?}");
        for text in ["Does everything still work?", "rolled back automatically in 1:", "Done:"] {
            assert!(kept.stdout.contains(text), "`{text}` is not in: {}", kept.stdout);
        }
        assert!(server.read("/etc/hosts.deny").contains("203.0.113.70"));
        server.ctl(&["hosts", "remove", "203.0.113.70"]).expect_status(0);
        let back = asked("100s", "r\\n");
        assert_eq!(back.status, 6, "{back:#?}");
        assert!(back.stdout.contains("Rolled back:") && !server.read("/etc/hosts.deny").contains("203.0.113.70"), "{back:#?}");
        // Nobody answers.
        let late = asked("3s", "");
        assert_eq!(late.status, 6, "{late:#?}");
        assert!(late.stdout.contains("not confirmed in time") && !server.read("/etc/hosts.deny").contains("203.0.113.70"));
    });
}

#[test]
fn nobody_confirms_and_it_is_taken_back_and_keeps_nobody_waiting() {
    on_both(|server| {
        let before = server.read("/etc/hosts.deny");
        let start = Instant::now();
        let id = pending(server, &["hosts", "deny", "203.0.113.70"]);
        assert!(!server.ssh("203.0.113.70").ok);
        let first = one(server, &id);
        assert!(first["events"].as_array().unwrap().len() == 2 && first["seconds_left"].as_u64().unwrap() <= 20, "{first:#}");
        taken_back(server, &id, start);
        assert!(start.elapsed() >= Duration::from_secs(19), "not before its deadline");
        assert_eq!(server.read("/etc/hosts.deny"), before);
        assert_eq!(one(server, &id)["detail"], "not confirmed in time");
        server.ctl(&["confirm", &id, "--json"]).expect_error(3, "not-confirmed", &["it is rolled-back"]);
        assert!(server.ssh("203.0.113.70").ok);

        // By hand, at once.
        let id = pending_for(server, "10m", &["ban", "203.0.113.70", "--jail", "sshd"]);
        assert!(!server.ssh("203.0.113.70").ok);
        let back = server.ctl(&["rollback", &id, "--json"]).expect_status(0).json();
        assert_eq!((&back["state"], &back["changed"]), (&"rolled-back".into(), &false.into()), "{back:#}");
        assert!(server.ssh("203.0.113.70").ok);
        server.ctl(&["rollback", &id, "--json"]).expect_error(1, "failed", &["it has ended already"]);
        server.ctl(&["rollback", &id, "--abandon", "--json"]).expect_error(1, "failed", &["only a stuck change"]);

        for within in ["2s", "2h"] {
            let refused = server.ctl(&["hosts", "deny", "203.0.113.70", "--confirm-within", within, "--json"]);
            refused.expect_error(2, "usage", &["3 to 3600 seconds", "nothing was changed"]);
        }
        // A plan that only opens waits for nobody.
        let opened =
            server.ctl(&["hosts", "allow", "203.0.113.70", "--confirm-within", WITHIN, "--json"]).expect_status(0).json();
        assert_eq!((&opened["state"], &opened["plan"]["confirm"]), (&"confirmed".into(), &"not-needed".into()));
        // What was taken back of itself is in the audit records.
        let audit = server.ctl(&["audit", "show", "--json"]).expect_status(0).stdout;
        assert!(audit.contains("not confirmed in time"), "{audit}");
    });
}
