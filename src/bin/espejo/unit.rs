//! What makes a system run `watch` by itself: a unit of systemd, an agent of launchd, a task of Windows. Texts only.

/// The first words of what `service install` writes. What does not begin with them is somebody else's.
pub const MARK: &str = "# Made by `espejo service install`; `espejo service remove` takes it away.\n";

/// The line that says which vault a unit is for, around its directory.
const DESCRIPTION: [&str; 2] = ["Description=Espejo: keeps ", " and its mirror together"];

/// Has systemd read the password's file and hand it over.
const LOAD: &str = "LoadCredential=espejo-password:";
/// Where it lies then.
const HANDED_OVER: &str = "${CREDENTIALS_DIRECTORY}/espejo-password";

/// What is to be run.
pub struct Job<'a> {
    /// Of the program.
    pub program: &'a str,
    pub vault: &'a str,
    /// The file that holds the vault's password. Without one it is mirrored locked.
    pub password_file: Option<&'a str>,
}

impl Job<'_> {
    /// What follows the program's name, with `password_file` as the place of the password.
    fn args<'b>(&'b self, password_file: Option<&'b str>) -> Vec<&'b str> {
        let mut args = vec!["--no-input", "--vault", self.vault];
        args.extend(password_file.into_iter().flat_map(|file| ["--password-file", file]));
        args.push("watch");
        args
    }
}

/// A user unit of systemd.
///
/// Of its hardening only what needs no namespace: where those are not allowed to everybody, the service would not start.
pub fn systemd(job: &Job<'_>) -> String {
    let handed_over = job.password_file.map(|_| HANDED_OVER);
    let args = std::iter::once(job.program).chain(job.args(handed_over));
    let args = args.map(|arg| if Some(arg) == handed_over { arg.to_owned() } else { word(arg) });
    let command = args.collect::<Vec<_>>().join(" ");
    let credential = job.password_file.map(|file| format!("{LOAD}{}\n", file.replace('%', "%%")));
    let credential = credential.unwrap_or_default();
    format!(
        "{MARK}\
[Unit]
{before}{vault}{after}
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart={command}
{credential}\
Restart=on-failure
RestartSec=30
# A mistake in this file does not pass by itself.
RestartPreventExitStatus=2
# What is under way is finished within 30 seconds.
TimeoutStopSec=45
UMask=0077
LimitCORE=0
NoNewPrivileges=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service

[Install]
WantedBy=default.target
",
        vault = job.vault.replace('%', "%%"),
        before = DESCRIPTION[0],
        after = DESCRIPTION[1],
    )
}

/// The directory of the vault that a unit of [`systemd`] is for.
pub fn vault(unit: &str) -> Option<String> {
    let [before, after] = DESCRIPTION;
    let vault = unit.lines().find_map(|line| line.strip_prefix(before)?.strip_suffix(after))?;
    Some(vault.replace("%%", "%"))
}

/// The file that a unit of [`systemd`] takes the password from.
pub fn password_file(unit: &str) -> Option<String> {
    let file = unit.lines().find_map(|line| line.strip_prefix(LOAD))?;
    Some(file.replace("%%", "%"))
}

/// One word of a command line in a unit.
fn word(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '\\' | '"' => quoted.extend(['\\', c]),
            '%' | '$' => quoted.extend([c, c]),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:,=".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { quoted }
}

/// A launch agent of macOS.
pub fn launchd(job: &Job<'_>, name: &str) -> String {
    let args = std::iter::once(job.program).chain(job.args(job.password_file));
    let args = args.map(|arg| format!("    <string>{}</string>\n", xml(arg))).collect::<String>();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>
<!-- Untested. Save as ~/Library/LaunchAgents/{name}.plist, then: launchctl bootstrap gui/$UID that file -->
<plist version=\"1.0\">
<dict>
  <key>Label</key><string>{name}</string>
  <key>ProgramArguments</key>
  <array>
{args}  </array>
  <key>RunAtLoad</key><true/>
  <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>
  <key>ThrottleInterval</key><integer>30</integer>
  <key>ProcessType</key><string>Background</string>
  <key>Umask</key><integer>63</integer>
</dict>
</plist>
"
    )
}

/// A task of the Windows Task Scheduler.
pub fn windows(job: &Job<'_>, name: &str) -> String {
    let args = job.args(job.password_file).into_iter().map(|arg| match arg.contains(' ') {
        true => format!("\"{arg}\""),
        false => arg.to_owned(),
    });
    let args = xml(&args.collect::<Vec<_>>().join(" "));
    let program = xml(job.program);
    format!(
        "<?xml version=\"1.0\"?>
<!-- Untested. Save as {name}.xml, then: schtasks /Create /TN {name} /XML {name}.xml -->
<Task version=\"1.2\" xmlns=\"http://schemas.microsoft.com/windows/2004/02/mit/task\">
  <Triggers><LogonTrigger><Enabled>true</Enabled></LogonTrigger></Triggers>
  <Settings>
    <ExecutionTimeLimit>PT0S</ExecutionTimeLimit>
    <DisallowStartIfOnBatteries>false</DisallowStartIfOnBatteries>
    <StopIfGoingOnBatteries>false</StopIfGoingOnBatteries>
    <RestartOnFailure><Interval>PT1M</Interval><Count>255</Count></RestartOnFailure>
  </Settings>
  <Actions><Exec><Command>{program}</Command><Arguments>{args}</Arguments></Exec></Actions>
</Task>
"
    )
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: Job<'_> =
        Job { program: "/opt/my programs/espejo", vault: "/home/ana/50% \"$HOME\" \\", password_file: None };

    #[test]
    fn whatever_a_path_holds_is_one_word_of_the_command() {
        let line =
            r#"ExecStart="/opt/my programs/espejo" --no-input --vault "/home/ana/50%% \"$$HOME\" \\" watch"#;
        assert!(systemd(&JOB).lines().any(|it| it == line), "{}", systemd(&JOB));
        assert!(!systemd(&JOB).contains("Credential"), "nothing is handed over where nothing is needed");
    }

    #[test]
    fn the_password_is_handed_over_and_its_file_is_told() {
        let unit = systemd(&Job { password_file: Some("/home/ana/100% secret"), ..JOB });
        assert!(unit.contains("--password-file ${CREDENTIALS_DIRECTORY}/espejo-password watch\n"), "{unit}");
        assert_eq!(password_file(&unit).as_deref(), Some("/home/ana/100% secret"));
        assert_eq!(password_file(&systemd(&JOB)), None);
    }

    #[test]
    fn other_systems_get_xml_that_a_path_cannot_break() {
        let job = Job { vault: "/a & b/<c>", password_file: Some("/p"), ..JOB };
        for text in [launchd(&job, "espejo-1"), windows(&job, "espejo-1")] {
            assert!(text.contains("/a &amp; b/&lt;c&gt;") && text.contains("Untested"), "{text}");
            assert!(text.contains("--password-file") && text.contains("espejo-1"), "{text}");
        }
    }
}
