//! The command line: names and flags, nothing decided.
//!
//! Long, because it is a list: every command and flag once, in the order of the help.

use std::path::PathBuf;
use std::time::Duration;

use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use espejo::sync::Share;

/// A journal that mirrors itself: encrypted on your disk, synced through any WebDAV server or shared folder.
#[derive(Parser)]
#[command(name = "espejo", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    /// Without one: how things stand, and what to do next.
    #[command(subcommand)]
    pub command: Option<Command>,
}

#[derive(Args)]
#[command(next_help_heading = "For every command")]
pub struct Global {
    /// The vault directory [default: the nearest espejo.json upward from here, then the configured one]
    #[arg(long, global = true, env = "ESPEJO_VAULT", value_name = "DIR")]
    pub vault: Option<PathBuf>,
    /// Print one JSON document
    #[arg(long, global = true)]
    pub json: bool,
    /// Print nothing but what was asked for
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say more about what is being done
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// When to use colours
    #[arg(long, global = true, value_enum, default_value = "auto")]
    pub color: Color,
    /// Never ask anything
    #[arg(long, global = true)]
    pub no_input: bool,
    /// Answer every question with yes
    #[arg(short, long, global = true)]
    pub yes: bool,
    /// Read the password from a file
    #[arg(long, global = true, value_name = "F")]
    pub password_file: Option<PathBuf>,
    /// Read the password from the output of a command
    #[arg(long, global = true, value_name = "CMD", conflicts_with = "password_file")]
    pub password_command: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long, global = true, conflicts_with_all = ["password_file", "password_command"])]
    pub password_stdin: bool,
    /// Unlock with the 24 recovery words in a file instead of the password
    #[arg(long, global = true, value_name = "F", conflicts_with_all = ["password_file", "password_command", "password_stdin"])]
    pub recovery_key_file: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Subcommand)]
pub enum Command {
    /// Make a new vault
    Init(Init),
    /// Make this device's vault from an existing mirror
    #[command(alias = "join")]
    Clone(CloneArgs),
    /// Write an entry: from a file, from -m, or in your editor
    #[command(visible_alias = "new")]
    Add(Add),
    /// Change an entry
    Edit(Edit),
    /// Print an entry
    #[command(visible_alias = "cat")]
    Show(Show),
    /// List entries, the newest first
    #[command(visible_alias = "ls")]
    List(List),
    /// Find text in all entries
    Search(Search),
    /// Delete entries; their history stays
    Rm(Ids),
    /// Bring deleted entries back
    Undelete(Ids),
    /// Show the versions of an entry, or what happened in the vault
    Log(Log),
    /// Show what changed between two versions
    Diff(Diff),
    /// Make an old version the newest
    Revert(Revert),
    /// List entries that were changed on two devices at once
    Conflicts,
    /// Settle a conflict
    Resolve(Resolve),
    /// Set, show, test or forget the mirror
    #[command(subcommand)]
    Remote(Remote),
    /// Bring the vault and its mirror together
    Sync(Sync),
    /// Keep the vault and its mirror together until it is told to end
    Watch(Watch),
    /// Have `watch` run by itself, from login on
    Service(Service),
    /// List the devices of this vault, rename this one, or wait for one no longer
    Devices(DevicesArgs),
    /// How things stand, without password or network
    Status(Status),
    /// Read everything and name what is damaged, missing or not ours
    Check(Check),
    /// Make damage good, here and on the mirror: from the other side, a backup or older versions
    Repair(Repair),
    /// Put the whole vault into one verified file
    #[command(subcommand)]
    Backup(Backup),
    /// Make a vault from a backup, or bring back what is in it
    Restore(Restore),
    /// Make entries of texts from elsewhere; doing it again makes no others
    Import(Import),
    /// Write everything that is shown as plain files
    Export(Export),
    /// Store what an older espejo wrote in the form of today
    ///
    /// Showing an entry does it for that one; --all for every one.
    Migrate(Migrate),
    /// Look for what could cause trouble, and say what to do about it
    Doctor,
    /// What the owner of the mirror can see
    Privacy,
    /// Change the password
    Passwd(Passwd),
    /// Make new recovery words, or try the ones you have
    #[command(subcommand)]
    Recovery(Recovery),
    /// Make a new master key after a loss: nothing old opens what is written from now on
    Rekey(Rekey),
    /// Open the vault for a while: the commands that follow ask for no password
    Unlock(Unlock),
    /// End what `unlock` began
    Lock,
    /// Watch two devices, a server, a conflict and a repair, in a temporary directory
    Demo,
    /// Print what a shell needs to complete the command line
    Completions(Completions),
    /// Write the manual pages
    Man(Man),
}

#[derive(Args)]
pub struct Init {
    /// Where [default: the current directory]
    pub dir: Option<PathBuf>,
    /// What to call this device [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,
    /// Write the 24 recovery words to a new file [default: show them once, on a terminal, and ask for two of them]
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Make no recovery key: if the password is forgotten, the vault is lost
    #[arg(long, conflicts_with = "recovery_out")]
    pub no_recovery: bool,
    /// Accept a password that can be guessed
    #[arg(long)]
    pub allow_weak_password: bool,
    #[command(flatten)]
    pub new_password: NewPassword,
}

#[derive(Args)]
pub struct NewPassword {
    /// Read the new password from a file
    #[arg(long, value_name = "F")]
    pub new_password_file: Option<PathBuf>,
    /// Read the new password from the output of a command
    #[arg(long, value_name = "CMD", conflicts_with = "new_password_file")]
    pub new_password_command: Option<String>,
}

#[derive(Args)]
pub struct Passwd {
    #[command(flatten)]
    pub new_password: NewPassword,
    /// Accept a password that can be guessed
    #[arg(long)]
    pub allow_weak_password: bool,
}

#[derive(Args)]
pub struct Unlock {
    /// How long: 15m, 8h, 48h
    #[arg(long = "for", value_name = "TIME", default_value = "8h", value_parser = lasting)]
    pub lasting: Duration,
}

/// No session lasts longer.
const MAX_LASTING: Duration = Duration::from_hours(30 * 24);

fn lasting(text: &str) -> Result<Duration, String> {
    let lasting = text.parse::<jiff::SignedDuration>().ok().and_then(|it| Duration::try_from(it).ok());
    let fits = |it: &Duration| (Duration::from_secs(1)..=MAX_LASTING).contains(it);
    lasting.filter(fits).ok_or_else(|| "a time such as 15m or 8h, at most 720h".to_owned())
}

#[derive(Args)]
pub struct Rekey {
    #[command(flatten)]
    pub new_password: NewPassword,
    /// Accept a password that can be guessed
    #[arg(long)]
    pub allow_weak_password: bool,
    /// Write the new recovery words to a new file [default: show them once, on a terminal, and ask for two of them]
    #[arg(long, value_name = "FILE")]
    pub recovery_out: Option<PathBuf>,
    /// Make no recovery key: if the password is forgotten, the vault is lost
    #[arg(long, conflicts_with = "recovery_out")]
    pub no_recovery: bool,
}

#[derive(Subcommand)]
pub enum Recovery {
    /// Make new words; the old ones open this vault no more
    New {
        /// Write them to a new file [default: show them once, on a terminal, and ask for two of them]
        #[arg(long, value_name = "FILE")]
        recovery_out: Option<PathBuf>,
    },
    /// Say whether the words in --recovery-key-file F, or typed, open this vault
    Verify,
}

#[derive(Args, Clone)]
pub struct Login {
    /// User name on the server
    #[arg(long, value_name = "U")]
    pub user: Option<String>,
    /// Read the server's password from a file
    #[arg(long, value_name = "F")]
    pub remote_password_file: Option<PathBuf>,
    /// Read the server's password from the output of a command
    #[arg(long, value_name = "CMD", conflicts_with = "remote_password_file")]
    pub remote_password_command: Option<String>,
    /// Trust this certificate authority (PEM) besides the system's
    #[arg(long, value_name = "F")]
    pub ca_file: Option<PathBuf>,
}

/// As whom to sign in, on the server or with a browser.
#[derive(Args, Clone)]
pub struct SignIn {
    #[command(flatten)]
    pub login: Login,
    /// Sign in to a Nextcloud with your browser [default on a terminal, unless a user or password is given]
    #[arg(long = "login", conflicts_with_all = ["user", "remote_password_file", "remote_password_command"])]
    pub by_browser: bool,
}

#[derive(Args)]
pub struct CloneArgs {
    /// https://… (a Nextcloud's own address will do), a directory, or what `espejo devices invite` printed
    pub remote: String,
    /// Where [default: the last part of the remote's name]
    pub dir: Option<PathBuf>,
    /// What to call this device [default: the machine's name]
    #[arg(long, value_name = "NAME")]
    pub device_name: Option<String>,
    #[command(flatten)]
    pub sign_in: SignIn,
}

#[derive(Args)]
pub struct Add {
    /// Files, each an entry; - is standard input
    #[arg(value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The text itself
    #[arg(short, long, value_name = "TEXT", conflicts_with = "files")]
    pub message: Option<String>,
    /// Title [default: the first line of the text]
    #[arg(short, long)]
    pub title: Option<String>,
    /// A tag; may be given several times
    #[arg(short = 'T', long = "tag", value_name = "TAG")]
    pub tags: Vec<String>,
    /// When it happened: 2026-11-20, "yesterday 18:00", RFC 3339 [default: now]
    #[arg(long, value_name = "WHEN")]
    pub date: Option<String>,
    /// A file to keep with it; may be given several times
    #[arg(short, long = "attachment", value_name = "FILE")]
    pub attachments: Vec<PathBuf>,
}

#[derive(Args)]
pub struct Edit {
    /// Which entry: the first digits of its id, @ for the newest, @-1 for the one before
    pub id: String,
    /// - takes the new text from standard input
    #[arg(value_name = "-", value_parser = ["-"], conflicts_with_all = ["message", "file"])]
    pub stdin: Option<String>,
    /// The new text
    #[arg(short, long, value_name = "TEXT")]
    pub message: Option<String>,
    /// Take the new text from a file
    #[arg(long, value_name = "F", conflicts_with = "message")]
    pub file: Option<PathBuf>,
    /// New title
    #[arg(short, long)]
    pub title: Option<String>,
    /// +tag adds, -tag removes
    #[arg(short = 'T', long = "tag", value_name = "+TAG|-TAG", allow_hyphen_values = true)]
    pub tags: Vec<String>,
    /// A file to keep with it, or to replace the one of the same name
    #[arg(short, long = "attachment", value_name = "FILE")]
    pub attachments: Vec<PathBuf>,
}

#[derive(Args)]
pub struct Show {
    /// Which entry
    pub id: String,
    /// The exact bytes of the body, nothing else
    #[arg(long)]
    pub raw: bool,
    /// An older version
    #[arg(long, value_name = "V")]
    pub version: Option<String>,
    /// One of its attachments
    #[arg(long, value_name = "NAME")]
    pub attachment: Option<String>,
    /// Write to a new file
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct List {
    /// Words the title must contain
    pub query: Option<String>,
    /// At most this many
    #[arg(short, value_name = "N")]
    pub number: Option<usize>,
    /// With this tag
    #[arg(short = 'T', long)]
    pub tag: Option<String>,
    /// Not before
    #[arg(long, value_name = "WHEN")]
    pub since: Option<String>,
    /// Not after
    #[arg(long, value_name = "WHEN")]
    pub until: Option<String>,
    /// Deleted entries instead
    #[arg(long)]
    pub deleted: bool,
    /// From this day in any year
    #[arg(long)]
    pub on_this_day: bool,
}

#[derive(Args)]
pub struct Search {
    /// Text to find, whatever its case
    pub pattern: String,
    /// PATTERN is a regular expression
    #[arg(long)]
    pub regex: bool,
    /// Only in entries with this tag
    #[arg(long)]
    pub tag: Option<String>,
    /// Lines to show around each match
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub context: usize,
}

#[derive(Args)]
pub struct Ids {
    /// Which entries
    #[arg(value_name = "ID", required = true)]
    pub ids: Vec<String>,
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Log {
    /// Which entry [default: none, but what happened in the vault]
    pub id: Option<String>,
    /// At most so many of the newest
    #[arg(short, value_name = "N", default_value_t = 50, conflicts_with = "id")]
    pub number: usize,
}

#[derive(Args)]
pub struct Diff {
    /// Which entry
    pub id: String,
    /// From this version [default: the one before]
    pub from: Option<String>,
    /// To this version [default: the current one]
    pub to: Option<String>,
}

#[derive(Args)]
pub struct Revert {
    /// Which entry
    pub id: String,
    /// The version to go back to
    pub version: String,
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Args)]
pub struct Resolve {
    /// Which entry
    pub id: String,
    #[command(flatten)]
    pub how: How,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
pub struct How {
    /// Keep this version
    #[arg(long, value_name = "V")]
    pub keep: Option<String>,
    /// Join both texts line by line; your editor opens where they contradict each other
    #[arg(long)]
    pub merge: bool,
    /// Take the text from a file; - is standard input
    #[arg(long, value_name = "F")]
    pub file: Option<PathBuf>,
}

#[derive(Args)]
pub struct RemoteSet {
    /// https://… (a Nextcloud's own address will do) or a directory
    #[arg(required_unless_present_any = ["unattended", "no_unattended"])]
    pub target: Option<String>,
    #[command(flatten)]
    pub sign_in: SignIn,
    /// Mirror this vault while it is locked too: the keys of its feeds and the way to the mirror are kept outside the seal
    #[arg(long, conflicts_with = "no_unattended")]
    pub unattended: bool,
    /// Mirror this vault only when it is opened
    #[arg(long)]
    pub no_unattended: bool,
}

#[derive(Subcommand)]
pub enum Remote {
    /// Set the mirror: https://… or a directory
    Set(RemoteSet),
    /// Show which mirror is set
    Show,
    /// Try the mirror and say what is there
    Test,
    /// Forget the mirror; nothing on it is touched
    Forget,
}

#[derive(Args)]
pub struct Sync {
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Take in deletions however many they are
    #[arg(long)]
    pub accept_deletes: bool,
    /// Fill a mirror that lost its content again
    #[arg(long)]
    pub reseed: bool,
    /// Look at every file here and on the mirror
    #[arg(long)]
    pub full: bool,
}

#[derive(Args)]
pub struct Watch {
    /// How often to look at a mirror on which nothing moves [default: 60]; after a change it is looked at more often
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub every: Option<u64>,
    /// How long nothing must change here before it is sent, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 300, value_parser = clap::value_parser!(u64).range(10..=60_000))]
    pub debounce: u64,
}

#[derive(Args)]
pub struct DevicesArgs {
    #[command(subcommand)]
    pub command: Option<Devices>,
}

#[derive(Subcommand)]
pub enum Devices {
    /// List the devices: when each was seen last, and whether it has read everything
    List,
    /// Print one line, and an image to photograph, with which another device finds the mirror; nothing in it is secret
    Invite,
    /// Call this device something else
    Rename {
        /// Its new name
        name: String,
    },
    /// Wait for a device no longer: it is lost, or given away
    Retire {
        /// Its name, or the first digits of its id
        device: String,
        /// Change nothing, say what would be done
        #[arg(short = 'n', long)]
        dry_run: bool,
    },
}

#[derive(Args, Default)]
pub struct Status {
    /// One line, for a bar or a prompt
    #[arg(long)]
    pub short: bool,
    /// Exit with 6 if something is pending
    #[arg(long)]
    pub exit_code: bool,
}

#[derive(Args)]
pub struct Check {
    /// Look at the mirror too: marker, key files, feeds, and every object file
    #[arg(long)]
    pub remote: bool,
    /// Read only this share of the mirror's object files, going on where the last sample stopped: 5%
    #[arg(long, value_name = "P%", requires = "remote", value_parser = percent)]
    pub sample: Option<Share>,
}

#[derive(Args)]
pub struct Completions {
    /// Which shell
    #[arg(value_enum)]
    pub shell: Shell,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Nushell,
    Powershell,
    Zsh,
}

#[derive(Args)]
pub struct Man {
    /// Where to; the directory is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

#[derive(Args)]
pub struct Migrate {
    /// Only tell what there is, and which device could not read what (as without a flag)
    #[arg(long, conflicts_with = "all")]
    pub status: bool,
    /// Go through everything, older versions too
    #[arg(long)]
    pub all: bool,
    /// Only tell what would be done
    #[arg(short = 'n', long, requires = "all")]
    pub dry_run: bool,
}

fn percent(text: &str) -> Result<Share, String> {
    let number = text.trim_end_matches('%').parse::<f64>().ok();
    number.and_then(Share::percent).ok_or_else(|| "a percentage above 0, up to 100%".to_owned())
}

#[derive(Args)]
pub struct Repair {
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Where to take it from: remote, history, backup=FILE; may be given several times [default: remote].
    /// history makes an older version the newest where the newest one exists nowhere any more
    #[arg(long, value_name = "SOURCE", value_parser = source)]
    pub from: Vec<From>,
    /// For a server whose login cannot be read here, because the key file is damaged or gone
    #[command(flatten)]
    pub login: Login,
}

/// Where a repair takes intact copies from.
#[derive(Clone, PartialEq, Eq)]
pub enum From {
    Remote,
    History,
    Backup(PathBuf),
}

fn source(text: &str) -> Result<From, String> {
    match text.split_once('=') {
        None if text == "remote" => Ok(From::Remote),
        None if text == "history" => Ok(From::History),
        Some(("backup", file)) if !file.is_empty() => Ok(From::Backup(PathBuf::from(file))),
        _ => Err("remote, history or backup=FILE".to_owned()),
    }
}

#[derive(Subcommand)]
pub enum Backup {
    /// Write a backup, read it back, and only then put it in place
    Create {
        /// The file [default: a new one in a directory beside the vault, named after it]
        file: Option<PathBuf>,
    },
    /// List the backups beside the vault
    List,
    /// Read and open everything in a backup
    Verify {
        /// The backup
        file: PathBuf,
    },
    /// Have backups made without asking: whichever command comes when one is due makes it
    ///
    /// Without a flag: make the one that is due now, as from cron.
    Auto(AutoBackup),
    /// Write a backup again so that it opens with what opens this vault today
    Rewrap {
        /// The backup
        file: PathBuf,
    },
}

#[derive(Args)]
pub struct Import {
    /// Where the texts come from
    #[arg(value_enum)]
    pub format: ImportFormat,
    /// A folder, a JEX, JSON or zip file; - is standard input, for jrnl
    pub path: PathBuf,
    /// Change nothing, say what would be done
    #[arg(short = 'n', long)]
    pub dry_run: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ImportFormat {
    /// A folder of Markdown files, with or without front matter; what `export` wrote
    Markdown,
    /// An Obsidian vault
    Obsidian,
    /// A JEX file, or a RAW folder
    Joplin,
    /// What `jrnl --format json` writes
    Jrnl,
    /// A zip file of Day One's JSON export
    Dayone,
}

impl ImportFormat {
    /// What entries of this origin are derived from: never changed.
    pub fn name(self) -> &'static str {
        match self {
            Self::Markdown => "markdown",
            Self::Obsidian => "obsidian",
            Self::Joplin => "joplin",
            Self::Jrnl => "jrnl",
            Self::Dayone => "dayone",
        }
    }
}

#[derive(Args)]
pub struct Export {
    /// Where: a new or empty directory
    pub dir: PathBuf,
    /// As Markdown files with front matter, or as one JSON document; attachments beside it
    #[arg(long, value_enum, default_value = "markdown")]
    pub format: ExportFormat,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    Markdown,
    Json,
}

#[derive(Args)]
pub struct AutoBackup {
    /// How old the last one may be: 12h, 1d, 1w
    #[arg(long, value_name = "TIME", value_parser = period)]
    pub every: Option<Duration>,
    /// How many of the newest to keep; besides them the last of each of 4 weeks and 12 months
    #[arg(long, value_name = "N", default_value_t = 7, requires = "every", value_parser = clap::value_parser!(u16).range(1..))]
    pub keep: u16,
    /// Where [default: a directory beside the vault, named after it]
    #[arg(long, value_name = "DIR", requires = "every")]
    pub to: Option<PathBuf>,
    /// Make none any more; those that are there stay
    #[arg(long, conflicts_with = "every")]
    pub off: bool,
}

fn period(text: &str) -> Result<Duration, String> {
    let span = text.parse::<jiff::Span>().ok();
    let span = span.and_then(|span| span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok());
    let period = span.and_then(|it| Duration::try_from(it).ok());
    let fits = |it: &Duration| (Duration::from_mins(1)..=Duration::from_hours(366 * 24)).contains(it);
    period.filter(fits).ok_or_else(|| "a time such as 12h, 1d or 1w, at most 366d".to_owned())
}

#[derive(Args)]
#[command(arg_required_else_help = true)]
pub struct Service {
    /// Print what `install` would install, or what does the same on another system
    #[arg(long, value_enum, value_name = "SYSTEM", num_args = 0..=1, default_missing_value = "systemd")]
    pub print: Option<System>,
    #[command(subcommand)]
    pub command: Option<ServiceCommand>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum System {
    /// A user unit
    Systemd,
    /// A launch agent of macOS; untested
    Launchd,
    /// A task of the Windows Task Scheduler; untested
    Windows,
}

#[derive(Subcommand)]
pub enum ServiceCommand {
    /// Start it now and at every login (systemd)
    ///
    /// It needs `remote set --unattended`, which keeps no password, or --password-file, which it reads whenever it starts.
    Install,
    /// Whether it runs, and what it said last
    Status,
    /// End it, and take away what `install` made
    Remove,
}

#[derive(Args)]
pub struct Restore {
    /// The backup
    pub file: PathBuf,
    /// Make a vault of it here: a new or empty directory [default: bring what is in it into the vault there is]
    #[arg(long, value_name = "DIR", conflicts_with_all = ["entries", "as_new_versions"])]
    pub to: Option<PathBuf>,
    /// Bring back only this entry, as it was, deleted or changed since; may be given several times
    #[arg(long = "entry", value_name = "ID", conflicts_with = "as_new_versions")]
    pub entries: Vec<String>,
    /// Go back: what the backup shows becomes the newest version of every entry in it; what was written since stays in history
    #[arg(long)]
    pub as_new_versions: bool,
    /// Take what is intact of a damaged backup, and name the rest
    #[arg(long)]
    pub salvage: bool,
    /// Change nothing, show how the backup and the vault differ
    #[arg(short = 'n', long, conflicts_with = "to")]
    pub dry_run: bool,
    /// What to call this device [default: the machine's name]
    #[arg(long, value_name = "NAME", requires = "to")]
    pub device_name: Option<String>,
}
