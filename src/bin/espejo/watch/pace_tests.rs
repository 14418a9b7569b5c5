use super::*;

const SERVER: Mirror = Mirror { is_folder: false, tells: false };
const FOLDER: Mirror = Mirror { is_folder: true, tells: true };
const SETTLED: Outcome = Outcome::Settled { news: false };
const AWAY: Outcome = Outcome::Away { wait: None };

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A watch of `mirror`, whose first round was due at once.
fn watching(mirror: Mirror) -> Pace {
    let mut pace = Pace::new(Tempo { quick: secs(5), idle: secs(60) });
    assert_eq!(pace.next(), None, "without a mirror there is nothing to do");
    pace.mirror_set(Some(mirror), secs(0));
    assert_eq!(pace.next(), Some(secs(0)));
    pace
}

/// Lets rounds end with `outcome` whenever one is due, until `end`: when they were.
fn play(pace: &mut Pace, outcome: Outcome, end: At, chance: f64) -> Vec<At> {
    let mut rounds = Vec::new();
    while let Some(at) = pace.next().filter(|at| *at <= end) {
        rounds.push(at);
        pace.done(outcome, at, chance);
    }
    rounds
}

#[test]
fn a_server_is_asked_often_after_something_moved_and_once_a_minute_when_nothing_does() {
    let mut pace = watching(SERVER);
    let rounds = play(&mut pace, SETTLED, secs(30), 0.5);
    assert_eq!(rounds, [0, 5, 10, 15, 20, 25, 30].map(secs));
    play(&mut pace, SETTLED, secs(600), 0.5);
    let idle = play(&mut pace, SETTLED, secs(4_200), 0.5);
    assert_eq!(idle.len(), 60, "an hour: {idle:?}");
    let at = pace.next().unwrap();
    pace.done(Outcome::Settled { news: true }, at, 0.5);
    assert_eq!(pace.next(), Some(at + secs(5)), "who wrote a moment ago may go on");
}

#[test]
fn a_folder_that_tells_is_not_asked_often() {
    let mut pace = watching(FOLDER);
    assert_eq!(play(&mut pace, SETTLED, secs(130), 0.5), [0, 60, 120].map(secs));
    pace.changed(secs(131));
    assert_eq!(pace.next(), Some(secs(131)));
}

#[test]
fn a_fixed_interval_holds_when_nothing_moves() {
    let mut pace = Pace::new(Tempo { quick: secs(5), idle: secs(2) });
    pace.mirror_set(Some(SERVER), secs(0));
    assert_eq!(play(&mut pace, SETTLED, secs(6), 0.5), [0, 2, 4, 6].map(secs));
    let mut pace = Pace::new(Tempo { quick: secs(5), idle: secs(3_600) });
    pace.mirror_set(Some(SERVER), secs(0));
    let day = play(&mut pace, SETTLED, secs(86_400), 0.5);
    assert!(day.len() < 80, "{}", day.len());
}

#[test]
fn waits_are_spread_and_stay_near_what_they_should_be() {
    for chance in [0.0, 0.3, 1.0] {
        let mut pace = watching(SERVER);
        pace.done(SETTLED, secs(10_000), chance);
        let wait = pace.next().unwrap().checked_sub(secs(10_000)).unwrap();
        assert!((secs(54)..=secs(66)).contains(&wait), "{chance}: {wait:?}");
    }
    let wait = |chance| {
        let mut pace = watching(SERVER);
        pace.done(SETTLED, secs(10_000), chance);
        pace.next()
    };
    assert_ne!(wait(0.1), wait(0.9));
}

#[test]
fn an_outage_is_tried_ever_more_rarely_and_an_hour_of_it_costs_few_requests() {
    for chance in [0.0, 0.5, 1.0] {
        let mut pace = watching(SERVER);
        let hour = play(&mut pace, AWAY, secs(3_600), chance);
        assert!((15..=25).contains(&hour.len()), "{chance}: {hour:?}");
        assert!(pace.is_away());
        let day = play(&mut pace, AWAY, secs(86_400), chance);
        assert!(day.len() < 400, "{chance}: {}", day.len());
        let at = pace.next().unwrap();
        pace.done(SETTLED, at, chance);
        assert!(!pace.is_away());
        assert!(pace.next().unwrap() <= at + secs(66));
    }
}

#[test]
fn what_a_server_asks_for_is_granted_within_reason() {
    let asks = |wait| Outcome::Away { wait: Some(wait) };
    for chance in [0.0, 0.5, 1.0] {
        let mut pace = watching(SERVER);
        pace.done(asks(secs(120)), secs(0), chance);
        assert!((secs(120)..=secs(125)).contains(&pace.next().unwrap()));
        pace.changed(secs(100));
        pace.resumed(secs(101));
        assert!(pace.next().unwrap() >= secs(120), "nothing undercuts it");
        pace.done(asks(Duration::MAX), secs(200), chance);
        assert!(pace.next().unwrap() <= secs(200 + 3_605));
    }
}

#[test]
fn writing_during_an_outage_brings_one_try_forward_and_no_more() {
    let mut pace = watching(SERVER);
    let before = play(&mut pace, AWAY, secs(1_000), 0.5);
    let last = *before.last().unwrap();
    pace.changed(last + secs(1));
    assert_eq!(pace.next(), Some(last + secs(60)), "not nearer to the last try than that");
    let mut tries = 0;
    for second in 0..600 {
        let now = last + secs(second);
        pace.changed(now);
        while pace.next().is_some_and(|at| at <= now) {
            tries += 1;
            pace.done(AWAY, now, 0.5);
        }
    }
    assert!(tries <= 10, "an entry a second for ten minutes: {tries}");
}

#[test]
fn after_a_resume_it_is_tried_at_once_but_not_again_and_again() {
    let mut pace = watching(SERVER);
    play(&mut pace, AWAY, secs(2_000), 0.5);
    pace.resumed(secs(2_010));
    assert_eq!(pace.next(), Some(secs(2_010)));
    pace.done(AWAY, secs(2_011), 0.5);
    assert!(pace.next().unwrap() < secs(2_030), "the waiting begins anew");
    let after = pace.next();
    pace.resumed(secs(2_012));
    assert_eq!(pace.next(), after, "a clock that jumps all the time changes nothing");
    let mut pace = watching(FOLDER);
    pace.done(SETTLED, secs(0), 0.5);
    pace.resumed(secs(9));
    assert_eq!(pace.next(), Some(secs(9)));
}

#[test]
fn refused_credentials_stop_everything_until_others_are_set() {
    let mut pace = watching(SERVER);
    pace.done(Outcome::Stopped(Until::Settings), secs(0), 0.5);
    pace.changed(secs(100));
    pace.resumed(secs(200));
    assert_eq!(pace.next(), None);
    pace.mirror_set(Some(SERVER), secs(300));
    assert_eq!(pace.next(), Some(secs(300)));
    pace.mirror_set(None, secs(301));
    pace.changed(secs(302));
    pace.resumed(secs(400));
    assert_eq!(pace.next(), None, "there is no mirror");
}

#[test]
fn a_guard_stops_a_server_until_something_changes_and_a_folder_is_looked_at_again() {
    let mut pace = watching(SERVER);
    pace.done(Outcome::Stopped(Until::Change), secs(0), 0.5);
    assert_eq!(pace.next(), None);
    pace.changed(secs(3));
    assert_eq!(pace.next(), Some(secs(10)), "not at once again");
    pace.done(Outcome::Stopped(Until::Change), secs(10), 0.5);
    pace.changed(secs(100));
    assert_eq!(pace.next(), Some(secs(100)));
    let mut pace = watching(FOLDER);
    pace.done(Outcome::Stopped(Until::Change), secs(0), 0.5);
    assert_eq!(pace.next(), Some(secs(60)), "a disk that is plugged in tells nobody");
}

#[test]
fn what_is_pending_is_asked_for_soon_and_then_more_rarely() {
    let mut pace = watching(FOLDER);
    let rounds = play(&mut pace, Outcome::Unsettled { news: false }, secs(300), 0.5);
    let gaps =
        rounds.windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap().as_secs()).collect::<Vec<_>>();
    assert_eq!(gaps[..6], [4, 8, 16, 32, 60, 60]);
    let at = pace.next().unwrap();
    pace.done(Outcome::Unsettled { news: true }, at, 0.5);
    assert_eq!(pace.next(), Some(at + secs(2)), "some of it came");
}

#[test]
fn another_process_is_waited_for_and_an_outage_outlasts_it() {
    let mut pace = watching(SERVER);
    pace.done(AWAY, secs(0), 0.5);
    pace.done(Outcome::Busy, secs(5), 0.5);
    assert_eq!(pace.next(), Some(secs(7)));
    assert!(pace.is_away());
}

#[test]
fn a_burst_is_over_after_a_pause_or_when_it_has_lasted_too_long() {
    let mut burst = Burst::new(Duration::from_millis(300));
    assert_eq!(burst.over_at(), None);
    burst.stirred(secs(10));
    assert_eq!(burst.over_at(), Some(secs(10) + Duration::from_millis(300)));
    for ms in (0..10_000).step_by(100) {
        burst.stirred(secs(10) + Duration::from_millis(ms));
    }
    assert_eq!(burst.over_at(), Some(secs(10) + Duration::from_millis(1_500)), "an import does not wait");
    burst.clear();
    assert_eq!(burst.over_at(), None);
}

#[test]
fn sleep_a_stop_and_a_clock_that_was_set_are_noticed_and_ordinary_time_is_not() {
    let at = |boot, awake, wall_s: i64| Clocks {
        boot: secs(boot),
        awake: secs(awake),
        wall_ms: 1_790_000_000_000 + wall_s * 1_000,
    };
    let before = at(1_000, 900, 0);
    let ten = secs(10);
    assert!(!at(1_010, 910, 10).jumped(&before, ten));
    assert!(!at(1_012, 912, 12).jumped(&before, ten), "a busy machine");
    assert!(at(1_610, 910, 610).jumped(&before, ten), "suspended");
    assert!(at(1_310, 1_210, 310).jumped(&before, ten), "stopped");
    for set_by in [-86_400, 86_400, i64::MIN / 10_000, i64::MAX / 10_000 - 2_000_000_000_000] {
        assert!(at(1_010, 910, 10_i64.saturating_add(set_by)).jumped(&before, ten), "set by {set_by} s");
    }
}
