//! A figure beside its budget.

pub struct Row {
    pub what: String,
    pub value: f64,
    pub unit: &'static str,
    pub budget: Option<f64>,
    /// The system allocator differed from itself, so the figure proves nothing.
    pub noisy: bool,
}

impl Row {
    pub fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { what: what.into(), value, unit, budget: None, noisy: false }
    }

    pub fn at_most(mut self, budget: f64) -> Self {
        self.budget = Some(budget);
        self
    }

    pub fn noisy(mut self, noisy: bool) -> Self {
        self.noisy = noisy;
        self
    }

    fn mark(&self) -> &'static str {
        match self.budget {
            None => "",
            Some(_) if self.value.is_nan() => "NOT MEASURED",
            Some(budget) if self.value <= budget => "",
            Some(_) if self.noisy => "over, but the machine is too noisy to tell",
            Some(_) => "MISSED",
        }
    }
}

pub fn print(rows: &[Row]) {
    let width = rows.iter().map(|r| r.what.chars().count()).max().unwrap_or(0);
    println!("\n{:width$}  {:>12}  {:>10}", "what", "measured", "at most");
    for row in rows {
        let budget = row.budget.map_or(String::new(), |b| format!("{b} {}", row.unit));
        let value = format!("{:.3} {}", row.value, row.unit);
        println!("{:width$}  {value:>12}  {budget:>10}  {}", row.what, row.mark());
    }
    let judged = rows.iter().filter(|r| r.budget.is_some()).count();
    let missed = rows.iter().filter(|r| !r.mark().is_empty()).count();
    println!("{judged} figures have a budget, {missed} of them don't keep it");
}
