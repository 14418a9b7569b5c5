//! Where passwords come from: only from the sources named in the documentation, never from the command line itself.

use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use espejo::crypto::Password;
use espejo::format::keyfile::Secret;
use zeroize::Zeroizing;

use crate::args::{Global, Login, NewPassword};
use crate::failure::{Code, Failure};
use crate::output::warn;
use crate::recovery;

/// Guesses an attacker needs on average, as a power of ten, below which a password is refused (zxcvbn's estimate).
const MIN_GUESSES_LOG10: f64 = 10.0;

const MAX_SECRET_BYTES: u64 = 4_096;

type Text = Zeroizing<String>;

/// What unlocks the vault: the flags, then the environment, then a question on the terminal.
pub fn unlock_secret(global: &Global) -> Result<Secret, Failure> {
    if let Some(file) = &global.recovery_key_file {
        return Ok(Secret::Recovery(recovery::parse(&from_file(file)?)?));
    }
    let given = match Source::of_password(global) {
        Some(source) => source.read()?,
        None => ask(global, "Password: ")?,
    };
    Ok(Secret::Password(password(&given)?))
}

/// Whether a flag or the environment says where the secret is.
pub fn is_given(global: &Global) -> bool {
    global.recovery_key_file.is_some() || Source::of_password(global).is_some()
}

/// Where a secret is to be read.
enum Source {
    File(PathBuf),
    Command(String),
    Stdin,
}

impl Source {
    /// The vault's password, if a flag or the environment says where it is.
    fn of_password(global: &Global) -> Option<Self> {
        Self::given(global.password_file.as_ref(), global.password_command.as_ref())
            .or_else(|| global.password_stdin.then_some(Self::Stdin))
            .or_else(|| Self::in_environment("ESPEJO_PASSWORD"))
    }

    /// By flags.
    fn given(file: Option<&PathBuf>, command: Option<&String>) -> Option<Self> {
        file.cloned().map(Self::File).or_else(|| command.cloned().map(Self::Command))
    }

    /// By the variables that begin so.
    fn in_environment(name: &str) -> Option<Self> {
        let env = |end: &str| std::env::var_os(format!("{name}_{end}")).filter(|value| !value.is_empty());
        let command = || Some(Self::Command(env("COMMAND")?.to_string_lossy().into_owned()));
        env("FILE").map(|file| Self::File(file.into())).or_else(command)
    }

    fn read(self) -> Result<Text, Failure> {
        match self {
            Self::File(path) => from_file(&path),
            Self::Command(command) => from_command(&command),
            Self::Stdin => from_stdin(),
        }
    }
}

/// A new password: the new-password flags; for a vault that has none yet, then as for unlocking; typed twice on a
/// terminal, where six random words are offered.
pub fn new_password(
    global: &Global,
    new: &NewPassword,
    is_first: bool,
    allow_weak: bool,
) -> Result<Password, Failure> {
    let given = Source::given(new.new_password_file.as_ref(), new.new_password_command.as_ref());
    let typed = match given.or_else(|| Source::of_password(global).filter(|_| is_first)) {
        Some(source) => source.read()?,
        None => ask_for_new(global)?,
    };
    let password = password(&typed)?;
    match is_weak(&typed) {
        false => {}
        true if allow_weak => warn("this password can be guessed by whoever copies the vault or its mirror"),
        true => {
            return Err(Failure::new(
                Code::Password,
                "weak_password",
                "this password can be guessed by whoever copies the vault; nothing was changed",
            )
            .hint("six random words are strong, and a terminal is offered some; --allow-weak-password takes this one all the same"));
        }
    }
    Ok(password)
}

fn is_weak(password: &str) -> bool {
    zxcvbn::zxcvbn(password, &["espejo"]).guesses_log10() < MIN_GUESSES_LOG10
}

fn ask_for_new(global: &Global) -> Result<Text, Failure> {
    require_somebody(global)?;
    let phrase = recovery::phrase()?;
    tell("Six random words are easy to remember and hard to guess. For these, press Enter:");
    tell(&format!("  {}", *phrase));
    let first = ask(global, "New password: ")?;
    let first = if first.is_empty() { phrase } else { first };
    if *ask(global, "The same again: ")? != *first {
        let message = "the two passwords differ; nothing was changed";
        return Err(Failure::new(Code::Password, "passwords_differ", message).hint("try again"));
    }
    Ok(first)
}

/// Shows new recovery words once, and asks for two of them, so that they are surely written down.
pub fn show_words(global: &Global, words: &str) -> Result<(), Failure> {
    require_somebody(global)?;
    tell(
        "These 24 words open this vault if the password is forgotten. They are shown only now. Write them down:",
    );
    let numbered = words.split(' ').enumerate().map(|(n, word)| format!("{:>2}. {word:<9}", n + 1));
    for row in numbered.collect::<Vec<_>>().chunks(6) {
        tell(&format!("  {}", row.join(" ")));
    }
    if global.yes {
        return Ok(());
    }
    for at in recovery::two_places()? {
        let right = words.split(' ').nth(at).unwrap_or_default();
        let is_right = || Ok::<_, Failure>(ask(global, &format!("Word {}: ", at + 1))?.trim() == right);
        // A slip of the pen is no reason to begin again.
        if !(is_right()? || is_right()? || is_right()?) {
            let message = format!("this is not word {} of them", at + 1);
            return Err(Failure::new(Code::Password, "words_differ", message));
        }
    }
    Ok(())
}

/// The recovery words to be tried: from a file, or typed.
pub fn recovery_words(global: &Global) -> Result<Zeroizing<[u8; 32]>, Failure> {
    match &global.recovery_key_file {
        Some(file) => recovery::parse(&from_file(file)?),
        None => recovery::parse(&ask(global, "The 24 words: ")?),
    }
}

/// Says something that belongs to a question. Whoever cannot read it cannot answer either.
pub fn tell(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

impl Source {
    /// The server's password, if a flag or the environment says where it is.
    fn of_remote_password(login: &Login) -> Option<Self> {
        Self::given(login.remote_password_file.as_ref(), login.remote_password_command.as_ref())
            .or_else(|| Self::in_environment("ESPEJO_REMOTE_PASSWORD"))
    }
}

/// Whether a flag or the environment says where the server's password is.
pub fn is_remote_password_given(login: &Login) -> bool {
    Source::of_remote_password(login).is_some()
}

/// The server's password, if there is a user to have one.
pub fn remote_password(global: &Global, login: &Login) -> Result<Option<Text>, Failure> {
    if let Some(source) = Source::of_remote_password(login) {
        return source.read().map(Some);
    }
    match &login.user {
        Some(user) => ask(global, &format!("Password of {user} on the server: ")).map(Some),
        None => Ok(None),
    }
}

fn password(typed: &str) -> Result<Password, Failure> {
    Password::new(typed).ok_or_else(|| {
        let message = match typed.is_empty() {
            true => "the password is empty",
            false => "a password has at most 1,024 bytes; this one has more",
        };
        Failure::new(Code::Password, "bad_password", message).hint("it is the first line of what was given")
    })
}

fn missing(message: impl Into<String>) -> Failure {
    Failure::new(Code::Password, "no_password", message)
}

fn from_file(path: &Path) -> Result<Text, Failure> {
    let mut text = Zeroizing::new(String::new());
    std::fs::File::open(path)
        .and_then(|file| file.take(MAX_SECRET_BYTES).read_to_string(&mut text))
        .map_err(|error| {
            missing(format!("the file {} cannot be read: {error}", path.display()))
                .hint("is it the right name?")
        })?;
    Ok(without_line_end(text))
}

fn from_command(command: &str) -> Result<Text, Failure> {
    let words = shell_words::split(command).ok().filter(|words| !words.is_empty());
    let words = words.ok_or_else(|| missing("the password command is not a command line"))?;
    let output = Command::new(&words[0]).args(&words[1..]).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| missing(format!("the password command {:?}: {error}", words[0])))?;
    if !output.status.success() {
        return Err(missing(format!("the password command {:?} failed ({})", words[0], output.status))
            .hint("run it by itself: it must print the password and nothing else"));
    }
    let bytes = Zeroizing::new(output.stdout);
    let text = std::str::from_utf8(&bytes).map_err(|_| missing("the password command printed no text"))?;
    Ok(Zeroizing::new(text.lines().next().unwrap_or_default().to_owned()))
}

/// Byte by byte: what follows the line may be an entry.
fn from_stdin() -> Result<Text, Failure> {
    let mut line = Zeroizing::new(Vec::new());
    let mut byte = [0];
    let mut stdin = rustix_stdin();
    while line.len() < MAX_SECRET_BYTES as usize {
        match stdin.read(&mut byte) {
            Ok(0) => break,
            Ok(_) if byte[0] == b'\n' => break,
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(missing(format!("standard input: {error}"))),
        }
    }
    let text =
        std::str::from_utf8(&line).map_err(|_| missing("the password on standard input is not text"))?;
    Ok(without_line_end(Zeroizing::new(text.to_owned())))
}

/// Standard input without a buffer that would swallow what comes after the password.
fn rustix_stdin() -> impl Read {
    struct Unbuffered;
    impl Read for Unbuffered {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            rustix::io::read(rustix::stdio::stdin(), buffer).map_err(io::Error::from)
        }
    }
    Unbuffered
}

/// Whether there is a person at a terminal.
pub fn is_somebody_there(global: &Global) -> bool {
    !global.no_input && io::stdin().is_terminal()
}

fn require_somebody(global: &Global) -> Result<(), Failure> {
    match is_somebody_there(global) {
        true => Ok(()),
        false => Err(missing("a password is needed and there is nobody to ask")
            .hint("--password-file F, --password-command CMD or --password-stdin, or `espejo unlock` before; for a new one --new-password-file F or --new-password-command CMD")),
    }
}

fn ask(global: &Global, prompt: &str) -> Result<Text, Failure> {
    require_somebody(global)?;
    let typed =
        rpassword::prompt_password(prompt).map_err(|error| missing(format!("the terminal: {error}")))?;
    Ok(Zeroizing::new(typed))
}

fn without_line_end(mut text: Text) -> Text {
    let end = text.trim_end_matches(['\n', '\r']).len();
    text.truncate(end);
    text
}
