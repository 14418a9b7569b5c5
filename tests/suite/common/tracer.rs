//! A process watched call by call and killed at one of them, whichever of its threads makes it. Strace counts the calls
//! of each thread by itself, and so cannot tell one thread's third from another's.

use std::fs;
use std::io::Read;
use std::process::Command;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::cli::Output;

/// Before a program on a command line: it starts when somebody watches.
pub const HELD: [&str; 4] = ["sh", "-c", r#"kill -STOP $$; exec "$@""#, "sh"];

/// A run, and its changing calls in the order in which they began.
pub struct Run {
    pub output: Output,
    pub calls: Vec<Begun>,
}

/// A call that is about to be made.
pub struct Begun {
    pub name: &'static str,
    pub by_main_thread: bool,
}

/// Runs a command that is [`HELD`], and kills it before it makes its changing call with this number, if one is given.
#[expect(clippy::zombie_processes, reason = "it is waited for by its number, with the threads")]
pub fn run(command: &mut Command, kill_before: Option<usize>) -> Run {
    let mut child = command.spawn().unwrap();
    let process = Pid::from_raw(child.id().try_into().unwrap());
    watch(process);
    let (mut started, mut calls) = (false, Vec::new());
    let code = loop {
        match waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap() {
            WaitStatus::Exited(ended, code) if ended == process => break code,
            WaitStatus::Signaled(ended, ..) if ended == process => break -1,
            WaitStatus::PtraceEvent(thread, _, event) => {
                started |= event == libc::PTRACE_EVENT_EXEC;
                go_on(thread, None);
            }
            WaitStatus::PtraceSyscall(thread) => {
                if started && let Some(name) = changing_call(thread) {
                    if kill_before == Some(calls.len()) {
                        kill(process, Signal::SIGKILL).unwrap();
                    }
                    calls.push(Begun { name, by_main_thread: thread == process });
                }
                go_on(thread, None);
            }
            WaitStatus::Stopped(thread, signal) => go_on(thread, Some(signal)),
            _ => {}
        }
    };
    let (mut stdout, mut stderr) = (Vec::new(), String::new());
    child.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Run { output: Output { code, stdout, stderr }, calls }
}

/// Watches a process that waits for it, and whatever threads it starts.
fn watch(process: Pid) {
    waitpid(process, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let options = Options::PTRACE_O_TRACECLONE
        | Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACESYSGOOD
        | Options::PTRACE_O_EXITKILL;
    ptrace::seize(process, options).unwrap();
    kill(process, Signal::SIGCONT).unwrap();
}

/// Until its next call, or the end of this one.
fn go_on(thread: Pid, signal: Option<Signal>) {
    match ptrace::syscall(thread, signal) {
        // It was killed meanwhile.
        Ok(()) | Err(Errno::ESRCH) => {}
        Err(error) => panic!("{error}"),
    }
}

/// The call a thread is about to make, if it may change something: see [`CHANGING`](super::strace::CHANGING).
fn changing_call(thread: Pid) -> Option<&'static str> {
    if ptrace::syscall_info(thread).ok()?.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return None;
    }
    let call = fs::read_to_string(format!("/proc/{thread}/syscall")).ok()?;
    let mut words = call.split_whitespace();
    let number = words.next()?.parse::<libc::c_long>().ok()?;
    let name = match number {
        libc::SYS_openat => {
            let flags = i32::from_str_radix(words.nth(2)?.trim_start_matches("0x"), 16).ok()?;
            return (flags & (libc::O_CREAT | libc::O_WRONLY | libc::O_RDWR) != 0).then_some("openat");
        }
        libc::SYS_write => "write",
        libc::SYS_pwrite64 => "pwrite64",
        libc::SYS_renameat => "renameat",
        libc::SYS_renameat2 => "renameat2",
        libc::SYS_fsync => "fsync",
        libc::SYS_fdatasync => "fdatasync",
        libc::SYS_unlinkat => "unlinkat",
        libc::SYS_mkdirat => "mkdirat",
        libc::SYS_ftruncate => "ftruncate",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_rename => "rename",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_unlink => "unlink",
        #[cfg(target_arch = "x86_64")]
        libc::SYS_mkdir => "mkdir",
        _ => return None,
    };
    Some(name)
}
