//! Models whose names are like one that nobody has.

/// Names are compared only up to this length.
const MAX_CHARS: usize = 64;
/// So many models are looked at, and so many are named.
const MAX_COMPARED: usize = 1_000;
const MAX_NAMED: usize = 3;
/// The most characters that may differ, and the part of the name that they may be.
const MAX_DISTANCE: usize = 4;
const PART: usize = 4;

/// The question that names the models; empty if there is none like it.
pub fn did_you_mean<'a>(model: &str, known: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<String> = near(model, known).iter().map(|name| format!("'{name}'")).collect();
    match names.split_last() {
        None => String::new(),
        Some((last, [])) => format!(" Did you mean {last}?"),
        Some((last, others)) => format!(" Did you mean {} or {last}?", others.join(", ")),
    }
}

/// The nearest names first.
fn near<'a>(model: &str, known: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let wanted: Vec<char> = model.to_lowercase().chars().take(MAX_CHARS + 1).collect();
    if wanted.is_empty() || wanted.len() > MAX_CHARS {
        return Vec::new();
    }
    let max = (wanted.len() / PART).clamp(1, MAX_DISTANCE).min(wanted.len() - 1);
    let with_distance = known.take(MAX_COMPARED).filter_map(|name| {
        let candidate: Vec<char> = name.to_lowercase().chars().take(MAX_CHARS + 1).collect();
        if candidate.len() > MAX_CHARS {
            return None;
        }
        // A name without its tag or its date.
        let is_begun = wanted.len() > 2 && candidate.starts_with(&wanted);
        let distance = distance_within(&wanted, &candidate, max).or(is_begun.then_some(max));
        distance.map(|distance| (distance, name))
    });
    let mut near: Vec<_> = with_distance.collect();
    near.sort();
    near.into_iter().take(MAX_NAMED).map(|(_, name)| name).collect()
}

/// How many characters must be inserted, removed or changed; `None` if they are more than `max`.
fn distance_within(from: &[char], to: &[char], max: usize) -> Option<usize> {
    if from.len().abs_diff(to.len()) > max {
        return None;
    }
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
        if row.iter().all(|distance| *distance > max) {
            return None;
        }
    }
    Some(row[to.len()]).filter(|distance| *distance <= max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_models_are_named_and_distant_ones_are_not() {
        let known = ["gpt-5.4", "gpt-5.4-mini", "gpt-4.1-mini", "llama3:latest", "qwen3:8b", "o3"];
        let asked = |model: &str| did_you_mean(model, known.into_iter());
        assert_eq!(asked("gpt5.4"), " Did you mean 'gpt-5.4'?");
        assert_eq!(asked("GPT-5.4-MINI"), " Did you mean 'gpt-5.4-mini' or 'gpt-4.1-mini'?");
        assert_eq!(asked("gpt-5.1-mini"), " Did you mean 'gpt-4.1-mini' or 'gpt-5.4-mini'?");
        assert_eq!(asked("qwen3"), " Did you mean 'qwen3:8b'?");
        for model in ["claude-opus", "o", "", &"x".repeat(10_000)] {
            assert_eq!(asked(model), "");
        }
        let long = "m".repeat(MAX_CHARS + 1);
        assert_eq!(did_you_mean("m", [long.as_str()].into_iter()), "");
    }
}
