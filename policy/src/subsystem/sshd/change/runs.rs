//! What the unit of sshd runs beside it at a reload or a restart. A program that may write files could give sshd others than those that were
//! planned and proven, and a rollback would not take them away. Knows the programs that write none.

use crate::subsystem::sshd::change::no_plan::NoPlan;

/// Where programs of the distribution are.
const FOLDERS: [&str; 6] = ["/bin", "/sbin", "/usr/bin", "/usr/sbin", "/usr/lib/ssh", "/usr/libexec/openssh"];
/// Those that write no file, whatever they are told. A directory holds nothing yet, and host keys are made where they are missing.
const WRITE_NOTHING: [&str; 9] =
    ["kill", "sleep", "true", "false", "test", "echo", "mkdir", "sshd-keygen", "sshd-gen-keys-start"];

/// Why the unit must not be told, where it runs anything else.
pub fn writes_nothing(unit: &str, options: &'static str, when: &'static str, commands: &[Vec<String>]) -> Result<(), NoPlan> {
    let Some(command) = commands.iter().find(|command| may_write(command)) else { return Ok(()) };
    Err(NoPlan::MayWrite { unit: unit.to_owned(), when, options, command: command.join(" ") })
}

fn may_write(command: &[String]) -> bool {
    let Some((program, arguments)) = command.split_first() else { return true };
    let Some((_, name)) = program.rsplit_once('/').filter(|(folder, _)| FOLDERS.contains(folder)) else { return true };
    match name {
        // It writes nothing but its log (sshd(8)).
        "sshd" => !arguments.iter().any(|word| word == "-t") || arguments.iter().any(|word| word.starts_with("-E")),
        "ssh-keygen" => arguments != ["-A"],
        name => !WRITE_NOTHING.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_may_write_files_is_not_run_with_an_edit() {
        for (command, writes) in [
            ("/usr/sbin/sshd -t", false),
            ("/usr/sbin/sshd -t $SSHD_OPTS", false),
            ("/usr/sbin/sshd -t -E /etc/ssh/a", true),
            ("/usr/sbin/sshd", true),
            ("/bin/kill -HUP $MAINPID", false),
            ("/usr/bin/kill -HUP $MAINPID", false),
            ("/bin/sleep 5", false),
            ("/usr/bin/ssh-keygen -A", false),
            ("/usr/bin/ssh-keygen -t rsa -f /etc/ssh/a", true),
            ("/usr/libexec/openssh/sshd-keygen rsa", false),
            ("/bin/sh -c true", true),
            ("/usr/local/bin/kill -HUP $MAINPID", true),
            ("kill", true),
            ("/usr/bin/cp /a /etc/ssh/sshd_config", true),
        ] {
            let words = [command.split(' ').map(str::to_owned).collect()];
            let found = writes_nothing("ssh.service", "ExecReload=", "reload", &words);
            assert_eq!(found.is_err(), writes, "{command}");
            assert!(found.err().is_none_or(|why| why.words().as_str().contains(command)), "{command}");
        }
        assert!(writes_nothing("ssh.service", "ExecReload=", "reload", &[]).is_ok());
    }
}
