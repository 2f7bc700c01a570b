//! Everything that can happen, one step at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use onlyonce_storage::commit::Operation;
use onlyonce_storage::{KeyState, Resolution};
use stateright::{Model, Property};

use crate::mutant::Mutant;
use crate::promises;
use crate::record::{answer, key, value};
use crate::server;
use crate::state::{
    Body, Caller, Faults, Kind, Moment, OPERATOR, Phase, Server, Step, StoreHalf, Ticket, Told,
    Value, Word,
};
use crate::store::{Fate, HORIZON_TICKS};

/// A bounded world.
#[derive(Clone, Debug)]
pub struct World {
    pub name: &'static str,
    /// The callers, by what they ask for.
    pub callers: Vec<Body>,
    /// The servers, by the store that each is joined to.
    pub servers: Vec<usize>,
    pub stores: u8,
    /// How long the world lasts.
    pub ticks: u8,
    /// How many attempts a caller makes.
    pub attempts: u8,
    /// Whether calls say when they were first sent.
    pub stamped: bool,
    pub sweeps: bool,
    pub faults: Faults,
    pub mutant: Mutant,
    /// What a run must meet to have shown anything.
    pub meets: Vec<Kind>,
    /// What it has met, as [`Kind::bit`]s.
    pub met: Arc<AtomicU32>,
}

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// An attempt that was sent, the last or an earlier one, arrives (again) at a server.
    Arrive {
        caller: usize,
        server: usize,
    },
    /// A handler has its effect.
    Effect {
        server: usize,
        body: Body,
    },
    /// A handler that had its effect answers.
    Answer {
        server: usize,
        body: Body,
    },
    /// A handler without an effect says so.
    Decline {
        server: usize,
        body: Body,
    },
    /// A handler panics, or answers something that leaves open what it did.
    Ambiguous {
        server: usize,
        body: Body,
        answered: bool,
    },
    /// A caller sends its first attempt, to the store of a server.
    Begin {
        caller: usize,
        server: usize,
    },
    /// A server's process ends; its claims are dropped on the way, or it is killed.
    Crash {
        server: usize,
        dropped: bool,
    },
    /// A caller stops waiting, for ever.
    GiveUp {
        caller: usize,
    },
    /// A store is asked what an execution wants to know.
    Hear {
        server: usize,
        body: Body,
        fate: Fate,
    },
    /// An owner renews its lease.
    Renew {
        server: usize,
        body: Body,
    },
    /// An operator ends a doubt, as the books of the outside say.
    Resolve {
        store: usize,
    },
    /// A store ends and is opened again.
    Restart {
        store: usize,
    },
    /// A caller stops waiting for an attempt, or was refused, and sends the next.
    Retry {
        caller: usize,
    },
    /// A caller seals its key, and is told what became of it or not.
    Seal {
        caller: usize,
        server: usize,
        told: bool,
    },
    Sweep {
        store: usize,
    },
    /// Under a mutant that tells before: a store makes durable what it has applied.
    Sync {
        store: usize,
    },
    Tick,
    /// A store is replaced by an empty one, and its servers are started again.
    Wipe {
        store: usize,
    },
}

// === impl World ===

impl Model for World {
    type State = Moment;
    type Action = Action;

    fn init_states(&self) -> Vec<Moment> {
        let caller = |body: &Body| Caller {
            body: *body,
            phase: Phase::Fresh,
            attempts: 0,
            ticket: None,
        };
        let server = |store: &usize| Server {
            store: *store,
            flights: [].into(),
        };
        vec![Moment {
            // Nobody calls at the very moment at which a store is made.
            tick: 1,
            stores: (0..self.stores).map(|id| StoreHalf::new(id, 0)).collect(),
            servers: self.servers.iter().map(server).collect(),
            callers: self.callers.iter().map(caller).collect(),
            told: Told::default(),
            faults: self.faults,
            ..Moment::default()
        }]
    }

    fn actions(&self, moment: &Moment, actions: &mut Vec<Action>) {
        if moment.tick < self.ticks {
            actions.push(Action::Tick);
        }
        for caller in 0..moment.callers.len() {
            self.actions_of_caller(moment, caller, actions);
        }
        for (server, state) in moment.servers.iter().enumerate() {
            if moment.faults.server_crashes > 0 && !state.flights.is_empty() {
                actions.extend([true, false].map(|dropped| Action::Crash { server, dropped }));
            }
            for (&body, flight) in &state.flights {
                actions_of_flight(moment, (server, body), &flight.step, actions);
            }
        }
        for store in 0..moment.stores.len() {
            self.actions_of_store(moment, store, actions);
        }
    }

    fn next_state(&self, last: &Moment, action: Action) -> Option<Moment> {
        let mut moment = last.clone();
        let possible = self.step(&mut moment, action);
        // What was met is the run's to know: in the state it would only tell apart what is alike.
        let met = std::mem::take(&mut moment.told.kinds);
        if possible {
            self.met.fetch_or(met, Ordering::Relaxed);
        }
        if self.mutant == Mutant::None {
            moment = moment.canonical();
        }
        (possible && moment != *last).then_some(moment)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most once", |_, moment| promises::at_most_once(moment)),
            Property::always("same answer", |_, moment| promises::same_answer(moment)),
            Property::always("never both sealed and executed", |_, moment| {
                promises::never_both_sealed_and_executed(moment)
            }),
            Property::always("no stuck key", |world: &Self, moment| {
                promises::no_stuck_key(moment, world.mutant)
            }),
        ]
    }
}

impl World {
    fn actions_of_caller(&self, moment: &Moment, caller: usize, actions: &mut Vec<Action>) {
        let state = &moment.callers[caller];
        let servers = 0..moment.servers.len();
        match state.phase {
            Phase::Fresh => {
                actions.extend(
                    servers
                        .clone()
                        .map(|server| Action::Begin { caller, server }),
                );
            }
            Phase::Waiting => {
                actions.push(Action::GiveUp { caller });
                actions.push(Action::Retry { caller });
            }
            Phase::Refused => actions.push(Action::Retry { caller }),
            Phase::Ended => {}
        }
        if state.ticket.is_some() {
            actions.extend(
                servers
                    .clone()
                    .map(|server| Action::Arrive { caller, server }),
            );
            if moment.faults.seals > 0 {
                for server in servers {
                    let seal = |told| Action::Seal {
                        caller,
                        server,
                        told,
                    };
                    actions.extend([true, false].map(seal));
                }
            }
        }
    }

    fn actions_of_store(&self, moment: &Moment, store: usize, actions: &mut Vec<Action>) {
        if moment.faults.store_crashes > 0 {
            actions.push(Action::Restart { store });
        }
        if moment.faults.wipes > 0 {
            actions.push(Action::Wipe { store });
        }
        if moment.faults.resolutions > 0 {
            actions.push(Action::Resolve { store });
        }
        if self.sweeps {
            actions.push(Action::Sweep { store });
        }
        if self.mutant == Mutant::ToldBeforeDurable {
            actions.push(Action::Sync { store });
        }
    }

    /// Takes the step. False when it cannot be taken.
    fn step(&self, moment: &mut Moment, action: Action) -> bool {
        match action {
            Action::Tick => moment.tick += 1,
            Action::Begin { caller, server } => return self.begin(moment, caller, server),
            Action::Retry { caller } => return self.retry(moment, caller),
            Action::GiveUp { caller } => {
                moment.callers[caller].phase = Phase::Ended;
                for server in &mut moment.servers {
                    server::stop_waiting(server.flights.values_mut(), caller);
                }
            }
            Action::Arrive { caller, server } => {
                return self.in_network(moment, caller)
                    && server::arrive(moment, server, caller, self.mutant);
            }
            Action::Hear { server, body, fate } => {
                let flight = &moment.servers[server].flights[&body];
                // A claim that took longer is a late duplicate like any other.
                if flight.step == Step::Asking(Word::Claim)
                    && !self.is_promised(moment, flight.ticket)
                {
                    return false;
                }
                moment.faults.words_lost -= u8::from(fate != Fate::Told);
                server::ask_store(moment, server, body, fate, self.mutant);
            }
            Action::Effect { server, body } => effect(moment, server, body),
            Action::Answer { server, body } => {
                return say(moment, server, body, |token, effect| {
                    effect.map(|value| Word::Complete { token, value })
                });
            }
            Action::Decline { server, body } => {
                moment.faults.declined -= 1;
                return say(moment, server, body, |token, effect| {
                    effect.is_none().then_some(Word::Release { token })
                });
            }
            Action::Ambiguous {
                server,
                body,
                answered,
            } => {
                moment.faults.ambiguous -= 1;
                let frees = self.mutant == Mutant::PanicReleases;
                return say(moment, server, body, |token, effect| {
                    if frees {
                        return Some(Word::Release { token });
                    }
                    let value = effect.filter(|_| answered);
                    (answered == value.is_some()).then_some(Word::Doubt { token, value })
                });
            }
            Action::Renew { server, body } => {
                moment.faults.renewals -= 1;
                server::renew(moment, server, body, self.mutant);
            }
            Action::Crash { server, dropped } => {
                moment.faults.server_crashes -= 1;
                server::crash(moment, server, dropped, self.mutant);
            }
            Action::Seal {
                caller,
                server,
                told,
            } => return self.seal(moment, caller, server, told),
            Action::Restart { store } => {
                moment.faults.store_crashes -= 1;
                let tick = moment.tick;
                moment.stores[store].restart(tick);
            }
            Action::Resolve { store } => return resolve(moment, store, self.mutant),
            Action::Sweep { store } => {
                let tick = moment.tick;
                moment.stores[store].sweep(tick, self.mutant);
            }
            Action::Sync { store } => moment.stores[store].sync(),
            Action::Wipe { store } => {
                moment.faults.wipes -= 1;
                let id = moment.stores.iter().map(|half| half.id).max().unwrap_or(0) + 1;
                moment.stores[store] = StoreHalf::new(id, moment.tick);
                // A server has its store open: whoever replaces it ends the server.
                for server in &mut moment.servers {
                    if server.store == store {
                        server.flights.clear();
                    }
                }
            }
        }
        true
    }

    /// The caller's first attempt. All processes of one call share its ticket.
    fn begin(&self, moment: &mut Moment, caller: usize, server: usize) -> bool {
        let body = moment.callers[caller].body;
        let begun = moment
            .callers
            .iter()
            .find(|other| other.body == body && other.ticket.is_some())
            .and_then(|other| other.ticket);
        let store = &moment.stores[moment.servers[server].store];
        let ticket = begun.unwrap_or(Ticket {
            store: store.id,
            first_sent: self.stamped.then(|| store.now_told(moment.tick)),
            sent_at: moment.tick,
        });
        let state = &mut moment.callers[caller];
        state.ticket = Some(ticket);
        state.attempts = 1;
        state.phase = Phase::Waiting;
        self.in_network(moment, caller)
    }

    fn retry(&self, moment: &mut Moment, caller: usize) -> bool {
        let state = &mut moment.callers[caller];
        if state.attempts >= self.attempts {
            return false;
        }
        state.attempts += 1;
        state.phase = Phase::Waiting;
        for server in &mut moment.servers {
            server::stop_waiting(server.flights.values_mut(), caller);
        }
        self.in_network(moment, caller)
    }

    /// Whether an attempt of this caller may still arrive.
    fn in_network(&self, moment: &Moment, caller: usize) -> bool {
        let ticket = moment.callers[caller].ticket;
        ticket.is_some_and(|ticket| self.is_promised(moment, ticket))
    }

    /// Calls that say when they were first sent may come as late as they like; others are promised
    /// nothing after the horizon.
    fn is_promised(&self, moment: &Moment, ticket: Ticket) -> bool {
        self.stamped || moment.tick < ticket.sent_at + HORIZON_TICKS
    }

    fn seal(&self, moment: &mut Moment, caller: usize, server: usize, told: bool) -> bool {
        let ticket = moment.callers[caller].ticket;
        let store = &moment.stores[moment.servers[server].store];
        // A client asks the store that its ticket names, or nobody.
        if ticket.is_none_or(|ticket| ticket.store != store.id) || !self.in_network(moment, caller)
        {
            return false;
        }
        moment.faults.seals -= 1;
        server::question(moment, server, caller, told, self.mutant);
        true
    }
}

fn actions_of_flight(
    moment: &Moment,
    (server, body): (usize, Body),
    step: &Step,
    actions: &mut Vec<Action>,
) {
    let faults = &moment.faults;
    match step {
        Step::Asking(_) => {
            let fates = [Fate::Told, Fate::Kept, Fate::Lost];
            let possible = if faults.words_lost > 0 { 3 } else { 1 };
            let hear = |fate| Action::Hear { server, body, fate };
            actions.extend(fates.into_iter().take(possible).map(hear));
        }
        Step::Running { effect, .. } => {
            actions.push(match effect {
                Some(_) => Action::Answer { server, body },
                None => Action::Effect { server, body },
            });
            if effect.is_none() && faults.declined > 0 {
                actions.push(Action::Decline { server, body });
            }
            if faults.ambiguous > 0 {
                let end = |answered| Action::Ambiguous {
                    server,
                    body,
                    answered,
                };
                actions.extend([true, false].map(end));
            }
            if faults.renewals > 0 {
                actions.push(Action::Renew { server, body });
            }
        }
    }
}

/// The handler has its effect, unless the outside refuses the token: then it has none, and says so.
fn effect(moment: &mut Moment, server: usize, body: Body) {
    let refuses = moment.outside.refuses;
    let Some(flight) = moment.servers[server].flights.get_mut(&body) else {
        return;
    };
    let Step::Running { token, .. } = flight.step else {
        return;
    };
    if refuses.is_some_and(|refused| token <= refused) {
        flight.step = Step::Asking(Word::Release { token });
        return;
    }
    moment.outside.effects.push(body);
    let of = u8::try_from(moment.outside.effects.len()).unwrap_or(u8::MAX);
    flight.step = Step::Running {
        token,
        effect: Some(Value { body, of }),
    };
}

/// The handler ends, and its owner has a word for the store. False when it cannot end so.
fn say(
    moment: &mut Moment,
    server: usize,
    body: Body,
    word: impl FnOnce(onlyonce_storage::FencingToken, Option<Value>) -> Option<Word>,
) -> bool {
    let Some(flight) = moment.servers[server].flights.get_mut(&body) else {
        return false;
    };
    let Step::Running { token, effect } = flight.step else {
        return false;
    };
    let word = word(token, effect);
    let possible = word.is_some();
    flight.step = word.map_or(Step::Running { token, effect }, Step::Asking);
    possible
}

/// An operator looks at the books and ends a doubt. Before it says *not applied*, the outside is
/// made to refuse the token: the owner may still live.
fn resolve(moment: &mut Moment, store: usize, mutant: Mutant) -> bool {
    let (tick, spent) = (moment.tick, server::newest_token(moment, store));
    let KeyState::InDoubt(doubt) = moment.stores[store].peek(spent, tick, mutant) else {
        return false;
    };
    let resolution = if let Some(&body) = moment.outside.effects.first() {
        let made_up = Value { body, of: OPERATOR };
        let value = doubt.answer.as_ref().map_or(made_up, value);
        Resolution::Applied(answer(value))
    } else {
        moment.outside.refuses = moment.outside.refuses.max(Some(doubt.token));
        Resolution::NotApplied
    };
    moment.faults.resolutions -= 1;
    moment.told.kinds |= Kind::Resolved.bit();
    let operation = Operation::Resolve {
        by: onlyonce_storage::Operator::parse("operator").unwrap(),
        key: key().clone(),
        token: doubt.token,
        resolution,
    };
    let reply = moment.stores[store].decide(operation, spent, tick, mutant);
    reply.into_settled().is_ok()
}
