use super::*;
use crate::seed::Seed;

fn operation(key: &'static str) -> Operation {
    Operation::new(key, "pay 10").attempts(1)
}

fn answered(answer: &'static str) -> Ending {
    Ending::Answered(answer.into())
}

fn declined() -> Ending {
    Ending::Declined("no funds".into())
}

fn effect(key: &'static str) -> Effect {
    Effect::new(key, "pay 10", "ok")
}

/// What is wrong, by name and key.
fn found<const O: usize, const E: usize>(
    operations: [Operation; O],
    effects: [Effect; E],
) -> Vec<(String, String)> {
    let report = check(
        &operations.into_iter().collect(),
        &effects.into_iter().collect(),
    );
    let named = report.violations().iter().map(|violation| {
        (
            violation.name().to_owned(),
            violation.key().map(ToString::to_string).unwrap_or_default(),
        )
    });
    let named: Vec<_> = named.collect();
    assert_eq!(report.verdict() == Verdict::Violated, !named.is_empty());
    named
}

fn one(name: &str, key: &str) -> Vec<(String, String)> {
    vec![(name.to_owned(), key.to_owned())]
}

#[test]
fn an_answer_with_its_effect_is_valid() {
    let first_and_replay = operation("a").ended(answered("ok")).ended(answered("ok"));
    let twin = operation("a").ended(answered("ok"));
    assert_eq!(found([first_and_replay, twin], [effect("a")]), []);
}

#[test]
fn a_second_effect_is_a_double_apply() {
    let answered = operation("a").ended(answered("ok"));
    assert_eq!(
        found([answered], [effect("a"), effect("a")]),
        one("double-apply", "a")
    );
}

#[test]
fn a_second_effect_is_found_also_where_the_client_knows_nothing() {
    let in_doubt = operation("a").ended(Ending::InDoubt);
    assert_eq!(
        found([in_doubt], [effect("a"), effect("a")]),
        one("double-apply", "a")
    );
}

#[test]
fn an_answer_without_an_effect_is_lost() {
    assert_eq!(
        found([operation("a").ended(answered("ok"))], []),
        one("lost-acked", "a")
    );
}

#[test]
fn an_answer_is_not_lost_where_the_effects_could_not_be_read_to_the_end() {
    let history = History::from_iter([operation("a").ended(answered("ok"))]);
    let report = check(&history, &Effects::new().incomplete());
    assert_eq!(
        (report.verdict(), report.figures().lost),
        (Verdict::Unknown, 0)
    );
    // What is there can still be wrong.
    let doubled = Effects::from_iter([effect("a"), effect("a")]).incomplete();
    assert_eq!(check(&history, &doubled).verdict(), Verdict::Violated);
}

#[test]
fn a_replay_that_differs_from_the_first_answer_diverges() {
    let two_answers = operation("a").ended(answered("ok")).ended(answered("ok!"));
    assert_eq!(
        found([two_answers], [effect("a")]),
        one("reply-divergence", "a")
    );
}

#[test]
fn an_answer_that_differs_from_the_effects_diverges() {
    assert_eq!(
        found([operation("a").ended(answered("ok!"))], [effect("a")]),
        one("reply-divergence", "a")
    );
}

#[test]
fn a_twin_that_hears_another_answer_diverges() {
    let twins = [
        operation("a").ended(answered("ok")),
        operation("a").ended(answered("ok!")),
    ];
    assert_eq!(found(twins, [effect("a")]), one("reply-divergence", "a"));
}

#[test]
fn a_refusal_for_good_is_an_answer_without_an_effect_and_not_lost() {
    assert_eq!(
        found([operation("a").ended(declined()).ended(declined())], []),
        []
    );
    let report = check(
        &History::from_iter([operation("a").ended(declined())]),
        &Effects::new(),
    );
    assert_eq!((report.figures().declined, report.figures().lost), (1, 0));
}

#[test]
fn an_operation_that_was_declined_and_answered_diverges() {
    let both = operation("a").ended(answered("ok")).ended(declined());
    assert!(found([both], [effect("a")]).contains(&one("reply-divergence", "a")[0]));
}

#[test]
fn an_effect_that_was_denied_is_a_false_negative() {
    let refused = operation("a").ended(Ending::Refused);
    assert_eq!(
        found([refused.clone()], [effect("a")]),
        one("false-negative", "a")
    );
    assert_eq!(found([refused], []), []);
    let declined = operation("a").ended(declined());
    assert_eq!(found([declined], [effect("a")]), one("false-negative", "a"));
}

#[test]
fn a_refusal_is_true_where_a_twin_explains_the_effect() {
    let refused = operation("a").ended(Ending::Refused);
    let twin = operation("a").ended(Ending::Unknown);
    assert_eq!(found([refused.clone(), twin], [effect("a")]), []);
    let never_sent = Operation::new("a", "pay 10").ended(Ending::Unknown);
    assert_eq!(
        found([refused, never_sent], [effect("a")]),
        one("false-negative", "a")
    );
}

#[test]
fn a_refusal_of_what_the_same_client_has_an_answer_for_is_a_false_negative() {
    let both = operation("a").ended(Ending::Refused).ended(answered("ok"));
    let twin = operation("a").ended(answered("ok"));
    assert_eq!(
        found([both, twin], [effect("a")]),
        one("false-negative", "a")
    );
}

#[test]
fn an_effect_that_nobody_asked_for_is_a_phantom() {
    assert_eq!(found([], [effect("a")]), one("phantom", "a"));
    let never_sent = Operation::new("a", "pay 10").ended(Ending::Unknown);
    assert_eq!(found([never_sent], [effect("a")]), one("phantom", "a"));
}

#[test]
fn an_effect_with_a_payload_that_nobody_sent_is_a_swap() {
    let operations = [operation("a").ended(Ending::Unknown)];
    let other = Effect::new("a", "pay 99", "ok");
    assert_eq!(found(operations, [other]), one("payload-swap", "a"));
}

#[test]
fn a_reused_key_must_be_refused_and_leaves_the_effect_alone() {
    let owner = operation("a").ended(answered("ok"));
    let poison = Operation::new("a", "pay 99").attempts(1);
    let refused = poison.clone().ended(Ending::Refused);
    assert_eq!(found([owner.clone(), refused], [effect("a")]), []);
    let replayed = poison.clone().ended(answered("ok"));
    assert_eq!(
        found([owner.clone(), replayed], [effect("a")]),
        one("payload-swap", "a")
    );
    let overwritten = Effect::new("a", "pay 99", "ok");
    let unknown = poison.ended(Ending::Unknown);
    assert_eq!(
        found([owner, unknown], [overwritten]),
        one("payload-swap", "a")
    );
}

#[test]
fn one_refusal_for_two_payloads_is_a_swap() {
    let poison = Operation::new("a", "pay 99").attempts(1).ended(declined());
    assert_eq!(
        found([operation("a").ended(declined()), poison], []),
        one("payload-swap", "a")
    );
}

#[test]
fn what_is_in_doubt_may_have_happened_or_not_and_is_counted() {
    let history = || {
        History::from_iter([
            operation("a").ended(Ending::InDoubt),
            operation("b").ended(Ending::Unknown),
            operation("c").ended(Ending::Unknown).ended(Ending::InDoubt),
            operation("d").ended(Ending::InDoubt).ended(answered("ok")),
        ])
    };
    for effects in [vec!["d"], vec!["a", "b", "c", "d"]] {
        let report = check(&history(), &effects.into_iter().map(effect).collect());
        assert_eq!(report.verdict(), Verdict::Valid);
        let figures = report.figures();
        assert_eq!(
            (figures.in_doubt, figures.unknown, figures.answered),
            (2, 1, 1)
        );
    }
}

#[test]
fn a_run_that_is_not_over_or_did_nothing_is_not_valid() {
    let open = check(&History::from_iter([operation("a")]), &Effects::new());
    assert_eq!((open.verdict(), open.figures().open), (Verdict::Unknown, 1));
    assert_eq!(
        check(&History::new(), &Effects::new()).verdict(),
        Verdict::Unknown
    );
}

#[test]
fn violated_outranks_unknown_and_unknown_outranks_valid() {
    use Verdict::{Unknown, Valid, Violated};
    assert_eq!(Valid.and(Unknown), Unknown);
    assert_eq!(Unknown.and(Violated), Violated);
    assert_eq!(Violated.and(Valid), Violated);
    let history = History::from_iter([operation("a"), operation("b").ended(answered("ok"))]);
    assert_eq!(check(&history, &Effects::new()).verdict(), Violated);
}

#[test]
fn dsevr_is_of_all_operations() {
    let history: History = ["a", "b", "c", "d"]
        .map(|key| operation(key).ended(answered("ok")))
        .into_iter()
        .collect();
    let effects: Effects = ["a", "b", "a", "c", "a"].map(effect).into_iter().collect();
    let report = check(&history, &effects);
    let figures = report.figures();
    assert_eq!(
        (figures.calls, figures.operations, figures.effects),
        (4, 4, 5)
    );
    assert_eq!((figures.duplicated, figures.lost), (1, 1));
    assert!((figures.dsevr() - 0.25).abs() < f64::EPSILON);
    assert!(
        check(&History::new(), &Effects::new())
            .figures()
            .dsevr()
            .abs()
            < f64::EPSILON
    );
}

#[test]
fn books_that_are_wrong_make_the_report_violated() {
    let history = History::from_iter([operation("a").ended(answered("ok"))]);
    let report = check(&history, &[effect("a")].into_iter().collect());
    let opening: Balances = [("alice".to_owned(), 5)].into();
    let right = report
        .clone()
        .with_money(Money::check(&opening, &[], &opening));
    assert_eq!(right.verdict(), Verdict::Valid);
    let wrong = report.with_money(Money::check(
        &opening,
        &[],
        &[("alice".to_owned(), 4)].into(),
    ));
    assert_eq!(wrong.verdict(), Verdict::Violated);
    assert_eq!(wrong.violations()[0].name(), "fold-mismatch");
    assert!(wrong.money().is_some_and(|money| !money.conserved()));
    assert!(
        wrong
            .to_string()
            .ends_with("fold-mismatch: account alice holds 4 instead of 5")
    );
}

#[test]
fn keys_are_shown_without_harm_to_a_terminal() {
    assert_eq!(
        OperationKey::from(vec![b'a', 27, 0xff]).to_string(),
        "a\\x1b\\xff"
    );
    assert_eq!(OperationKey::from(42_u64), OperationKey::from("42"));
}

#[test]
fn a_long_report_says_how_much_it_leaves_out() {
    let history: History = (0..25_u64)
        .map(|key| Operation::new(key, "").attempts(1).ended(answered("ok")))
        .collect();
    let shown = check(&history, &Effects::new()).to_string();
    assert!(
        shown.starts_with("violated: 25 operations, 0 duplicated, 25 lost"),
        "{shown}"
    );
    assert!(shown.ends_with("and 5 more"), "{shown}");
}

/// What an honest server and its clients leave behind, and on which keys.
struct Honest {
    operations: Vec<Operation>,
    effects: Vec<Effect>,
}

fn payload(key: u64) -> String {
    format!("pay {key}")
}

fn answer(key: u64) -> String {
    format!("paid {key}")
}

/// Keys 0, 5, 10, ... were answered, 1, 6, 11, ... declined, 2, ... refused, 3, ... are in doubt,
/// 4, ... unknown; what happened in doubt, who has a twin and what was replayed is drawn.
fn honest(seed: Seed) -> Honest {
    let mut honest = Honest {
        operations: Vec::new(),
        effects: Vec::new(),
    };
    for key in 0..25 {
        let draw = |about| seed.draw(&[key, about]);
        let attempts = 1 + u32::try_from(draw(1).within(0..=3)).unwrap();
        let ending = match key % 5 {
            0 => Ending::Answered(answer(key).into()),
            1 => Ending::Declined("no funds".into()),
            2 => Ending::Refused,
            3 => Ending::InDoubt,
            _ => Ending::Unknown,
        };
        let mut operation = Operation::new(key, payload(key))
            .attempts(attempts)
            .ended(ending.clone());
        if draw(2).happens(0.5) {
            operation = operation.ended(ending);
        }
        if draw(3).happens(0.3) {
            honest.operations.push(operation.clone());
        }
        honest.operations.push(operation);
        if draw(4).happens(0.3) {
            let poison = Operation::new(key, "poison")
                .attempts(1)
                .ended(Ending::Refused);
            honest.operations.push(poison);
        }
        if key % 5 == 0 || (key % 5 >= 3 && draw(5).happens(0.5)) {
            honest
                .effects
                .push(Effect::new(key, payload(key), answer(key)));
        }
    }
    honest
}

impl Honest {
    fn effect_of(&mut self, key: u64) -> &mut Effect {
        self.effects
            .iter_mut()
            .find(|effect| effect.key == key.into())
            .unwrap()
    }

    fn violations(self) -> Vec<Violation> {
        check(
            &self.operations.into_iter().collect(),
            &self.effects.into_iter().collect(),
        )
        .violations()
        .to_vec()
    }
}

#[test]
fn a_single_corruption_of_an_honest_run_is_always_found() {
    type Corrupt = fn(&mut Honest, victim: u64);
    // The name, which of the five kinds of keys it strikes, and what it does.
    let corruptions: [(&str, u64, Corrupt); 8] = [
        ("double-apply", 0, |run, victim| {
            let again = run.effect_of(victim).clone();
            run.effects.push(again);
        }),
        ("lost-acked", 0, |run, victim| {
            run.effects.retain(|effect| effect.key != victim.into());
        }),
        ("reply-divergence", 0, |run, victim| {
            run.effect_of(victim).answer = "other".into();
        }),
        ("reply-divergence", 0, |run, victim| {
            let told = run
                .operations
                .iter_mut()
                .find(|told| told.key == victim.into())
                .unwrap();
            *told.endings.last_mut().unwrap() = answered("other");
        }),
        ("false-negative", 1, |run, victim| {
            run.effects
                .insert(0, Effect::new(victim, payload(victim), "no funds"));
        }),
        ("false-negative", 2, |run, victim| {
            run.effects
                .insert(0, Effect::new(victim, payload(victim), answer(victim)));
        }),
        ("phantom", 0, |run, victim| {
            run.effects
                .push(Effect::new(1_000 + victim, payload(victim), answer(victim)));
        }),
        ("payload-swap", 0, |run, victim| {
            run.effect_of(victim).payload = payload(999).into();
        }),
    ];
    for seed in (0..300).map(Seed::new) {
        assert_eq!(honest(seed).violations(), [], "seed {seed}");
        for (name, kind, corrupt) in corruptions {
            let victim = kind + 5 * seed.draw(&[999]).within(0..=4);
            let mut run = honest(seed);
            corrupt(&mut run, victim);
            let violations = run.violations();
            let [violation] = violations.as_slice() else {
                panic!("seed {seed}, {name} of {victim}: {violations:?}");
            };
            let meant = if name == "phantom" {
                1_000 + victim
            } else {
                victim
            };
            assert_eq!(violation.name(), name, "seed {seed}");
            assert_eq!(violation.key(), Some(&meant.into()), "seed {seed}");
        }
    }
}
