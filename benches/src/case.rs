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

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Finding policy and key of a request, and letting it pass.
    Admit,
    /// The same for a request that an open breaker turns away.
    Reject,
    /// Recording a success.
    Succeed,
    /// Recording a failure that opens nothing.
    Fail,
    /// Telling the router and the attempt seat, which is known, about the retries of a request that was let pass.
    Plan,
    /// The same with a `per_try_timeout`, which has to leave room for the longest wait.
    PlanPerTry,
    /// In the attempt seat: deciding on a response that asks for a retry, with a token withdrawn for it.
    Grant,
    /// Deciding where a request goes that was let pass, all hosts being well.
    Send,
    /// The same while one host is out.
    Steer,
    /// In the attempt seat: judging the host of an attempt that succeeded.
    Judge,
    /// The same where rates are watched, so that every success counts.
    JudgeRates,
    /// The same for an attempt that failed, in a cluster all of whose hosts fail and where no more may be out.
    JudgeFailed,
}

impl Part {
    /// Whether it is about retries; the policies have some then.
    pub const fn retries(self) -> bool {
        matches!(self, Part::Plan | Part::PlanPerTry | Part::Grant)
    }

    /// Whether it is about hosts; the policies judge them then.
    pub const fn hosts(self) -> bool {
        matches!(self, Part::Send | Part::Steer | Part::Judge | Part::JudgeRates | Part::JudgeFailed)
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

    /// How many operations are timed at once. Of failures fewer, so that a run of them opens nothing.
    pub const fn batch(&self) -> u32 {
        match (self.kind, self.part) {
            (Kind::Run, Part::Fail) => 40,
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
    Case::new(Kind::Time, Part::Judge),
    Case::new(Kind::Time, Part::Judge).hosts(200),
    Case::new(Kind::Time, Part::JudgeRates),
    Case::new(Kind::Time, Part::JudgeRates).hosts(200),
    Case::new(Kind::Time, Part::JudgeFailed),
    Case::new(Kind::Time, Part::JudgeFailed).hosts(200),
];
