//! Reading what the agent exports.

/// A page of metrics.
pub(crate) struct Exposition(pub(crate) String);

impl Exposition {
    /// The sum of all series of `metric` that have these labels; `None` where there is none.
    pub(crate) fn sum(&self, metric: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let mut sum = None;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(metric) else {
                continue;
            };
            let Some((series, value)) = rest.rsplit_once(' ') else {
                continue;
            };
            if !(series.is_empty() || series.starts_with('{')) {
                continue;
            }
            let has = |(name, value): &(&str, &str)| {
                // The first label follows a brace, the others a comma.
                ["{", ","]
                    .iter()
                    .any(|before| series.contains(&format!("{before}{name}=\"{value}\"")))
            };
            if labels.iter().all(has)
                && let Ok(value) = value.parse::<f64>()
            {
                *sum.get_or_insert(0.0) += value;
            }
        }
        sum
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Exposition {
        Exposition(
            "# HELP a_total a 1\n# TYPE a_total counter\n\
             a_total{x=\"1\",y=\"2\"} 3\na_total{x=\"1\",y=\"3\"} 4.5\n\
             a_total_other 7\nb 1e3\n"
                .to_owned(),
        )
    }

    #[test]
    fn series_with_the_labels_are_summed() {
        let page = page();
        assert_eq!(page.sum("a_total", &[]), Some(7.5));
        assert_eq!(page.sum("a_total", &[("x", "1"), ("y", "3")]), Some(4.5));
        assert_eq!(page.sum("b", &[]), Some(1000.0));
    }

    #[test]
    fn what_is_not_there_is_not_zero() {
        let page = page();
        assert_eq!(page.sum("a", &[]), None);
        assert_eq!(page.sum("a_total", &[("x", "2")]), None);
    }
}
