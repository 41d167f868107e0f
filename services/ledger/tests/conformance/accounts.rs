//! A small domain: accounts with a balance, transfers between two of them, requests that are answered once.

use ledger::sql::{Dialect, Tx};
use std::sync::Mutex;

use ledger::{
    BoxFuture, Decider, Decision, Error, Fence, Projection, Recorded, StreamId, View, inbox, params,
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    Added(i64),
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Command {
    /// Adds to an account; refused if the balance would become negative.
    Add(&'static str, i64),
    /// The same on an account of any name.
    AddTo(StreamId, i64),
    /// The same on an account thought to be new.
    Open(StreamId, i64),
    /// The same under a lease.
    Under(Fence, &'static str, i64),
    /// Takes from one and gives to another, atomically.
    Move(&'static str, &'static str, i64),
    /// Adds once per request id.
    Request(String, &'static str, i64),
    /// Only looks.
    Balance(&'static str),
    /// Looks at an account thought to be new.
    Probe(StreamId),
    /// Ends an account.
    Close(StreamId),
    /// Consumes another log.
    Consume(u64, &'static str, i64),
    /// Writes a stream that it does not name.
    Cheat,
    /// Looks at a stream that it does not name.
    Peek,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) balance: i64,
    pub(crate) events: u64,
    pub(crate) closed: bool,
}

/// Remembers which leases were lost.
#[derive(Debug, Default)]
pub(crate) struct Accounts(Mutex<Vec<Fence>>);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    TooLittle(i64),
    OtherRequest,
    Lost(Fence),
}

pub(crate) fn account(name: &str) -> StreamId {
    StreamId::of("account", name)
}

impl Decider for Accounts {
    type State = Account;
    type Event = Event;
    type Command = Command;
    type Reply = i64;
    type Rejection = Refusal;

    fn streams(&self, command: &Command) -> Vec<StreamId> {
        match command {
            Command::Add(name, _)
            | Command::Under(_, name, _)
            | Command::Request(_, name, _)
            | Command::Balance(name)
            | Command::Consume(_, name, _) => {
                vec![account(name)]
            }
            Command::AddTo(stream, _)
            | Command::Open(stream, _)
            | Command::Probe(stream)
            | Command::Close(stream) => {
                vec![stream.clone()]
            }
            Command::Move(from, to, _) => vec![account(from), account(to)],
            Command::Cheat | Command::Peek => vec![],
        }
    }

    fn expects_new(&self, command: &Command) -> bool {
        matches!(command, Command::Open(..) | Command::Probe(_))
    }

    fn inbox_keys(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Request(id, ..) => vec![inbox::key("request", id)],
            _ => vec![],
        }
    }

    fn initial(&self, _stream: &StreamId) -> Account {
        Account::default()
    }

    fn evolve(&self, state: &mut Account, event: &Event) {
        state.events += 1;
        match event {
            Event::Added(amount) => state.balance += amount,
            Event::Closed => state.closed = true,
        }
    }

    fn decide(
        &self,
        view: &View<'_, Self>,
        command: &Command,
        _now: i64,
    ) -> Result<Decision<Event, i64>, Refusal> {
        let add = |stream: &StreamId, amount: i64| {
            let balance = view.state(stream).balance + amount;
            if balance < 0 {
                Err(Refusal::TooLittle(view.state(stream).balance))
            } else {
                Ok(balance)
            }
        };
        match command {
            Command::Add(name, amount) | Command::Consume(_, name, amount) => {
                let stream = account(name);
                let mut decision =
                    Decision::new(add(&stream, *amount)?).event(stream, Event::Added(*amount));
                if let Command::Consume(position, ..) = command {
                    decision = decision.cursor(ledger::Cursor {
                        consumer: "accounts".into(),
                        log_id: "other".into(),
                        position: *position,
                    });
                }
                Ok(decision)
            }
            Command::AddTo(stream, amount) | Command::Open(stream, amount) => {
                Ok(Decision::new(add(stream, *amount)?)
                    .event(stream.clone(), Event::Added(*amount)))
            }
            Command::Under(fence, name, amount) => {
                if self.0.lock().expect("not poisoned").contains(fence) {
                    return Err(Refusal::Lost(*fence));
                }
                let stream = account(name);
                let decision = Decision::new(add(&stream, *amount)?);
                Ok(decision.event(stream, Event::Added(*amount)).fenced(*fence))
            }
            Command::Move(from, to, amount) => {
                let left = add(&account(from), -amount)?;
                Ok(Decision::new(left)
                    .event(account(from), Event::Added(-amount))
                    .event(account(to), Event::Added(*amount)))
            }
            Command::Request(id, name, amount) => {
                let fingerprint = inbox::fingerprint(&format!("{name} {amount}"));
                let key = inbox::key("request", id);
                match inbox::check(view.inbox(&key), &fingerprint) {
                    inbox::Seen::Before(reply) => Ok(Decision::new(i64::from_be_bytes(
                        reply.try_into().unwrap_or_default(),
                    ))),
                    inbox::Seen::Otherwise => Err(Refusal::OtherRequest),
                    inbox::Seen::Never => {
                        let stream = account(name);
                        let balance = add(&stream, *amount)?;
                        let row = inbox::record(&fingerprint, &balance.to_be_bytes());
                        Ok(Decision::new(balance)
                            .event(stream, Event::Added(*amount))
                            .inbox(key, row))
                    }
                }
            }
            Command::Balance(name) => Ok(Decision::new(view.state(&account(name)).balance)),
            Command::Probe(stream) => Ok(Decision::new(view.state(stream).balance)),
            Command::Close(stream) => Ok(Decision::new(0).event(stream.clone(), Event::Closed)),
            Command::Peek => Ok(Decision::new(view.state(&account("peeked")).balance)),
            Command::Cheat => Ok(Decision::new(0).event(account("cheated"), Event::Added(1))),
        }
    }

    fn encode(&self, event: &Event, buffer: &mut Vec<u8>) -> &'static str {
        match event {
            Event::Added(amount) => {
                buffer.extend_from_slice(&amount.to_be_bytes());
                "test.Added"
            }
            Event::Closed => "test.Closed",
        }
    }

    fn decode(&self, type_name: &str, data: &[u8]) -> Result<Event, Error> {
        match type_name {
            "test.Added" => data
                .try_into()
                .map(|bytes| Event::Added(i64::from_be_bytes(bytes)))
                .map_err(|error| Error::decode(type_name, error)),
            "test.Closed" => Ok(Event::Closed),
            other => Err(Error::decode(other, "unknown")),
        }
    }

    fn fenced_off(&self, fence: Fence) {
        self.0.lock().expect("not poisoned").push(fence);
    }

    fn forget(&self, state: &Account) -> bool {
        state.closed
    }

    fn snapshot(&self, state: &Account) -> Option<Vec<u8>> {
        Some(
            [
                state.balance.to_be_bytes(),
                (state.events as i64).to_be_bytes(),
            ]
            .concat(),
        )
    }

    fn restore(&self, _stream: &StreamId, snapshot: &[u8]) -> Option<Account> {
        let balance = i64::from_be_bytes(snapshot.get(..8)?.try_into().ok()?);
        let events = i64::from_be_bytes(snapshot.get(8..16)?.try_into().ok()?) as u64;
        Some(Account {
            balance,
            events,
            closed: false,
        })
    }
}

/// Balances as a table.
pub(crate) struct Balances {
    pub(crate) version: u32,
}

impl Projection for Balances {
    fn name(&self) -> &'static str {
        "balances"
    }

    fn version(&self) -> u32 {
        self.version
    }

    fn schema(&self, _dialect: Dialect) -> &'static [&'static str] {
        &["CREATE TABLE balances (account TEXT PRIMARY KEY, balance INTEGER NOT NULL, raw BLOB)"]
    }

    fn tables(&self) -> &'static [&'static str] {
        &["balances"]
    }

    fn apply<'a>(
        &'a mut self,
        tx: &'a mut Tx,
        events: &'a [Recorded],
    ) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            for event in events {
                // What the next version of this program writes, and that version's table passes over.
                if self.version >= 3 && event.type_name == "test.Later" {
                    continue;
                }
                if let Event::Added(amount) =
                    Accounts::default().decode(&event.type_name, &event.data)?
                {
                    tx.execute(
                        "INSERT INTO balances (account, balance, raw) VALUES ($1, $2, $3) \
                         ON CONFLICT (account) DO UPDATE SET balance = balances.balance + excluded.balance",
                        params![&event.stream, amount * i64::from(self.version.min(2)), None::<Vec<u8>>],
                    )
                    .await?;
                }
            }
            Ok(())
        })
    }
}
