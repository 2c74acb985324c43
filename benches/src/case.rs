//! The cases.

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    /// The breaker's window.
    pub kind: Kind,
    /// What is timed.
    pub part: Part,
    /// Workers that have counted outcomes for the key; the first is measured.
    pub workers: usize,
    /// Keys that the requests take in turn.
    pub keys: usize,
    /// Policies in the document; requests take them in turn, each names a cluster of its own.
    pub policies: usize,
    /// Hosts of the cluster, all of which are known.
    pub hosts: usize,
}

/// What a policy counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The last 10 seconds.
    Time,
    /// The last 100 outcomes.
    Count100,
    /// The last 1000 outcomes.
    Count1000,
    /// The last 10 seconds and consecutive failures.
    Run,
}

/// What is timed: events of the lives that the wasm shell drives, with all that they ask of the host and do to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A request's headers, up to its going on: finding policy and key among cluster and headers, admitting it, its access log line and
    /// its metrics.
    Admit,
    /// The same for a request that an open breaker turns away, with the reply and the request's end.
    Reject,
    /// The headers of a success, and the request's end: reading the headers, judging them and recording the outcome.
    Succeed,
    /// The same for a failure that opens nothing.
    Fail,
    /// As [`Part::Admit`] with retries: the router and the attempt seat, which is known, are told about them.
    Plan,
    /// The same with a `per_try_timeout`, which has to leave room for the longest wait.
    PlanPerTry,
    /// In the attempt seat: the headers of a failure that is to be retried, with a token withdrawn for it, and the attempt's end.
    Grant,
    /// As [`Part::Admit`] with hosts, all of which are well: where the request goes, and telling the attempt seat.
    Send,
    /// The same while one host is out.
    Steer,
    /// The same where the hosts stand in two priorities of four localities each.
    SteerSpread,
    /// The same for the first request after another worker has changed the table of hosts.
    SteerAnew,
    /// As [`Part::Send`] where each request's host is chosen, each in turn.
    SendInTurn,
    /// The same, by the request's path.
    SendByHash,
    /// The same, the better one of two by latency.
    SendByLatency,
    /// In the attempt seat: the headers of a success, whose host is judged, and the attempt's end.
    Judge,
    /// The same where rates are watched, so that every success counts.
    JudgeRates,
    /// The same for an attempt that failed, in a cluster all of whose hosts fail and where no more may be out.
    JudgeFailed,
    /// A healthy request from its headers to its end, in the request seat alone.
    Serve,
    /// A healthy request with retries through both seats: its headers, its attempt from headers to end, its response and its end.
    ServeBoth,
    /// The same with hosts in place of retries, all of which are well.
    ServeHosts,
    /// The same while one host is out.
    ServeSteered,
    /// A request through both seats whose first attempt fails: the retry is granted, waits, is woken by a tick and succeeds.
    Retry,
    /// Reading Envoy's listing of all hosts, for those of one cluster among 300 others.
    List,
    /// Entering such hosts, all of which are known, into a copy of the table.
    TakeOver,
}

impl Part {
    /// Whether it is about retries; the policies have some then.
    pub const fn retries(self) -> bool {
        matches!(self, Part::Plan | Part::PlanPerTry | Part::Grant | Part::ServeBoth | Part::Retry)
    }

    /// Whether it is about hosts; the policies judge them then.
    pub const fn hosts(self) -> bool {
        let is_judged = matches!(self, Part::Judge | Part::JudgeRates | Part::JudgeFailed);
        is_judged || self.steers() || self.balance().is_some() || matches!(self, Part::Send | Part::ServeHosts)
    }

    /// What chooses each request's host, if anything does.
    pub const fn balance(self) -> Option<&'static str> {
        match self {
            Part::SendInTurn => Some(r#""weighted""#),
            Part::SendByHash => Some(r#"{"hash": "path"}"#),
            Part::SendByLatency => Some(r#""least_latency""#),
            _ => None,
        }
    }

    /// Whether the hosts stand in several priorities and localities.
    pub const fn spreads(self) -> bool {
        matches!(self, Part::SteerSpread | Part::SteerAnew)
    }

    /// Whether a host is out.
    pub const fn steers(self) -> bool {
        matches!(self, Part::Steer | Part::ServeSteered) || self.spreads()
    }
}

impl Case {
    const fn new(kind: Kind, part: Part) -> Self {
        Case { kind, part, workers: 1, keys: 1, policies: 1, hosts: 5 }
    }
    const fn workers(self, workers: usize) -> Self {
        Case { workers, ..self }
    }
    const fn keys(self, keys: usize) -> Self {
        Case { keys, ..self }
    }
    const fn policies(self, policies: usize) -> Self {
        Case { policies, ..self }
    }
    const fn hosts(self, hosts: usize) -> Self {
        Case { hosts, ..self }
    }

    /// How many operations are timed at once. Of failures fewer, so that a run of them opens nothing; one of what is long, or the
    /// first of its kind.
    pub const fn batch(&self) -> u32 {
        match (self.kind, self.part) {
            (Kind::Run, Part::Fail) => 40,
            (_, Part::SteerAnew | Part::List | Part::TakeOver) => 1,
            _ => 512,
        }
    }
}

/// All cases, in the order of the table.
pub const CASES: &[Case] = &[
    Case::new(Kind::Time, Part::Admit),
    Case::new(Kind::Count100, Part::Admit),
    Case::new(Kind::Count1000, Part::Admit),
    Case::new(Kind::Run, Part::Admit),
    Case::new(Kind::Time, Part::Reject),
    Case::new(Kind::Time, Part::Succeed),
    Case::new(Kind::Count100, Part::Succeed),
    Case::new(Kind::Count1000, Part::Succeed),
    Case::new(Kind::Run, Part::Succeed),
    Case::new(Kind::Time, Part::Fail),
    Case::new(Kind::Time, Part::Fail).workers(4),
    Case::new(Kind::Time, Part::Fail).workers(16),
    Case::new(Kind::Count100, Part::Fail),
    Case::new(Kind::Count100, Part::Fail).workers(4),
    Case::new(Kind::Count100, Part::Fail).workers(16),
    Case::new(Kind::Count1000, Part::Fail),
    Case::new(Kind::Count1000, Part::Fail).workers(4),
    Case::new(Kind::Count1000, Part::Fail).workers(16),
    Case::new(Kind::Run, Part::Fail),
    Case::new(Kind::Run, Part::Fail).workers(4),
    Case::new(Kind::Run, Part::Fail).workers(16),
    Case::new(Kind::Time, Part::Admit).keys(16),
    Case::new(Kind::Time, Part::Admit).keys(256),
    Case::new(Kind::Time, Part::Succeed).keys(16),
    Case::new(Kind::Time, Part::Succeed).keys(256),
    Case::new(Kind::Time, Part::Admit).policies(100),
    Case::new(Kind::Time, Part::Succeed).policies(100),
    Case::new(Kind::Time, Part::Plan),
    Case::new(Kind::Time, Part::PlanPerTry),
    Case::new(Kind::Time, Part::Grant),
    Case::new(Kind::Time, Part::Grant).workers(8),
    Case::new(Kind::Time, Part::Send),
    Case::new(Kind::Time, Part::Send).hosts(200),
    Case::new(Kind::Time, Part::Steer),
    Case::new(Kind::Time, Part::Steer).hosts(200),
    Case::new(Kind::Time, Part::SteerSpread),
    Case::new(Kind::Time, Part::SteerSpread).hosts(1000),
    Case::new(Kind::Time, Part::SteerAnew),
    Case::new(Kind::Time, Part::SteerAnew).hosts(1000),
    Case::new(Kind::Time, Part::List),
    Case::new(Kind::Time, Part::List).hosts(1000),
    Case::new(Kind::Time, Part::TakeOver),
    Case::new(Kind::Time, Part::TakeOver).hosts(1000),
    Case::new(Kind::Time, Part::SendInTurn),
    Case::new(Kind::Time, Part::SendInTurn).hosts(200),
    Case::new(Kind::Time, Part::SendByHash),
    Case::new(Kind::Time, Part::SendByHash).hosts(200),
    Case::new(Kind::Time, Part::SendByLatency),
    Case::new(Kind::Time, Part::SendByLatency).hosts(200),
    Case::new(Kind::Time, Part::Judge),
    Case::new(Kind::Time, Part::Judge).hosts(200),
    Case::new(Kind::Time, Part::JudgeRates),
    Case::new(Kind::Time, Part::JudgeRates).hosts(200),
    Case::new(Kind::Time, Part::JudgeFailed),
    Case::new(Kind::Time, Part::JudgeFailed).hosts(200),
    Case::new(Kind::Time, Part::Serve),
    Case::new(Kind::Time, Part::ServeBoth),
    Case::new(Kind::Time, Part::ServeHosts),
    Case::new(Kind::Time, Part::ServeSteered),
    Case::new(Kind::Time, Part::Retry),
];
