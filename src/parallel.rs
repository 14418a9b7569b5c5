//! The same work on many items, by a few threads that have ended when it returns.

use std::num::NonZero;
use std::panic::resume_unwind;
use std::thread::ScopedJoinHandle;

/// Threads for work that keeps a core busy.
const MAX_BUSY: usize = 4;

/// Gives `work` all items, in their order, in pieces of at least `per_thread` and no more than `threads` of them, all
/// at once; what it makes of each piece.
pub fn pieces<T: Send, R: Send>(
    mut items: Vec<T>,
    per_thread: usize,
    threads: usize,
    work: impl Fn(Vec<T>) -> R + Sync,
) -> Vec<R> {
    let threads = (items.len() / per_thread).clamp(1, threads);
    let mut pieces = Vec::with_capacity(threads);
    while pieces.len() + 1 < threads {
        let len = items.len() / (threads - pieces.len());
        let rest = items.split_off(len);
        pieces.push(std::mem::replace(&mut items, rest));
    }
    std::thread::scope(|scope| {
        let work = &work;
        // The last piece is done here.
        let others = pieces.into_iter().map(|piece| scope.spawn(move || work(piece))).collect::<Vec<_>>();
        let last = work(items);
        others.into_iter().map(joined).collect::<Vec<_>>().into_iter().chain([last]).collect()
    })
}

/// What `work` makes of each item, in their order, by as many threads as there are cores for.
pub fn map<T: Send, R: Send>(items: Vec<T>, per_thread: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    filter_map(items, per_thread, |item| Some(work(item)))
}

/// The same, of those items it makes anything of.
pub fn filter_map<T: Send, R: Send>(
    items: Vec<T>,
    per_thread: usize,
    work: impl Fn(T) -> Option<R> + Sync,
) -> Vec<R> {
    let done = pieces(items, per_thread, busy(), |piece| {
        let mut done = Vec::with_capacity(piece.len());
        done.extend(piece.into_iter().filter_map(&work));
        done
    });
    let mut done = done.into_iter();
    let mut all = done.next().unwrap_or_default();
    all.reserve_exact(done.as_slice().iter().map(Vec::len).sum());
    done.for_each(|piece| all.extend(piece));
    all
}

/// What a thread has done, once it has.
pub fn joined<T>(thread: ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| resume_unwind(panic))
}

/// How many threads are worth starting for work that keeps a core busy.
fn busy() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_BUSY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_item_once_and_in_order() {
        for len in [0, 1, 2, 7, 8, 9, 64, 1_000] {
            for threads in [1, 2, 3, 8] {
                let pieces = pieces((0..len).collect(), 2, threads, |piece| piece);
                assert!(
                    pieces.len() <= threads && (pieces.len() == 1 || pieces.iter().all(|it| it.len() >= 2))
                );
                assert_eq!(pieces.concat(), (0..len).collect::<Vec<_>>());
            }
            assert_eq!(map((0..len).collect(), 2, |n| n * 2), (0..len).map(|n| n * 2).collect::<Vec<_>>());
            let third = |n: i32| (n % 3 == 0).then_some(n);
            assert_eq!(
                filter_map((0..len).collect(), 2, third),
                (0..len).filter_map(third).collect::<Vec<_>>()
            );
        }
    }
}
