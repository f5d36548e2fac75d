use super::*;

fn config() -> SamplingConfig {
    SamplingConfig {
        max_new_tokens: 1,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        repetition_penalty: 1.0,
        seed: 1,
        eos_token_ids: Vec::new(),
    }
}

/// Ids that survive the filters, ascending.
fn survivors(config: SamplingConfig, logits: &[f32]) -> Vec<u32> {
    let mut sampler = Sampler::new(config, &[]);
    sampler.next(logits).unwrap();
    let mut ids: Vec<u32> = sampler.kept.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    ids
}

fn logits_of(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|p| p.ln()).collect()
}

#[test]
fn ties_with_the_kth_score_are_kept() {
    assert_eq!(survivors(SamplingConfig { top_k: 2, ..config() }, &[1.0, 3.0, 2.0, 2.0, 0.0]), [1, 2, 3]);
    assert_eq!(survivors(SamplingConfig { top_k: 9, ..config() }, &[1.0, 3.0]), [0, 1]);
}

#[test]
fn top_p_keeps_the_token_that_crosses_the_bound() {
    let logits = logits_of(&[0.5, 0.3, 0.15, 0.05]);
    assert_eq!(survivors(SamplingConfig { top_p: 0.7, ..config() }, &logits), [0, 1]);
    assert_eq!(survivors(SamplingConfig { top_p: 0.81, ..config() }, &logits), [0, 1, 2]);
    assert_eq!(survivors(SamplingConfig { top_p: 0.01, ..config() }, &logits), [0]);
}

#[test]
fn the_mass_is_renormalised_after_top_k() {
    // After top-k 2: 5/8 and 3/8. With top_p 0.6 the first alone suffices; of the whole mass it would be 0.5 and the second would stay.
    let logits = logits_of(&[0.5, 0.3, 0.15, 0.05]);
    assert_eq!(survivors(SamplingConfig { top_k: 2, top_p: 0.6, ..config() }, &logits), [0]);
    assert_eq!(survivors(SamplingConfig { top_p: 0.6, ..config() }, &logits), [0, 1]);
}

#[test]
fn top_p_over_many_equal_scores_keeps_just_enough() {
    let kept = survivors(SamplingConfig { top_p: 0.5, ..config() }, &[0.0; 1000]);
    assert_eq!(kept.len(), 500);
}

#[test]
fn min_p_is_a_share_of_the_largest() {
    let logits = logits_of(&[0.5, 0.26, 0.24]);
    assert_eq!(survivors(SamplingConfig { min_p: 0.5, ..config() }, &logits), [0, 1]);
    assert_eq!(survivors(SamplingConfig { min_p: 1.0, ..config() }, &[2.0, 2.0, 1.0]), [0, 1]);
}

#[test]
fn temperature_scales_before_the_filters() {
    // At temperature 0.5 the ratio of the two squares: 0.25 becomes 0.0625, below the share of 0.1.
    let logits = logits_of(&[0.8, 0.2]);
    assert_eq!(survivors(SamplingConfig { min_p: 0.1, ..config() }, &logits), [0, 1]);
    assert_eq!(survivors(SamplingConfig { min_p: 0.1, temperature: 0.5, ..config() }, &logits), [0]);
}

#[test]
fn the_penalty_counts_prompt_and_output_once_each() {
    let greedy = SamplingConfig { temperature: 0.0, repetition_penalty: 2.0, ..config() };
    let mut sampler = Sampler::new(greedy.clone(), &[0, 0, 0]);
    // 4 / 2 = 2 loses to 3; then 3 / 2 loses to 2; halved once only, however often the id occurs.
    assert_eq!(sampler.next(&[4.0, 3.0, 0.0]).unwrap(), 1);
    assert_eq!(sampler.next(&[4.0, 3.0, 0.0]).unwrap(), 0);
    let mut sampler = Sampler::new(greedy, &[0]);
    // Negative scores are multiplied: -1 becomes -2.
    assert_eq!(sampler.next(&[-1.0, -1.5]).unwrap(), 1);
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplingConfig { temperature: 0.0, ..config() }, &[]);
    assert_eq!(sampler.next(&[0.0, 5.0, 5.0]).unwrap(), 1);
}

#[test]
fn draws_follow_the_distribution() {
    let probabilities = [0.4, 0.3, 0.2, 0.1];
    let logits = logits_of(&probabilities);
    let mut sampler = Sampler::new(SamplingConfig { seed: 3, ..config() }, &[]);
    let draws = 20_000;
    let mut counts = [0f64; 4];
    for _ in 0..draws {
        counts[sampler.next(&logits).unwrap() as usize] += 1.0;
    }
    let chi_square: f64 = counts
        .iter()
        .zip(probabilities)
        .map(|(count, p)| {
            let expected = f64::from(p) * f64::from(draws);
            (count - expected).powi(2) / expected
        })
        .sum();
    // 3 degrees of freedom: 16.27 is exceeded once in a thousand.
    assert!(chi_square < 16.27, "{chi_square} {counts:?}");
}

#[test]
fn draws_follow_the_filtered_distribution() {
    // top-k 3 of 0.4 0.3 0.2 0.1 leaves 4/9 3/9 2/9; at temperature 0.5 those are 16 9 4 of 29.
    let sampling = SamplingConfig { seed: 11, top_k: 3, temperature: 0.5, ..config() };
    let mut sampler = Sampler::new(sampling, &[]);
    let logits = logits_of(&[0.4, 0.3, 0.2, 0.1]);
    let draws = 20_000;
    let mut counts = [0f64; 4];
    for _ in 0..draws {
        counts[sampler.next(&logits).unwrap() as usize] += 1.0;
    }
    assert_eq!(counts[3], 0.0);
    let chi_square: f64 = counts
        .iter()
        .zip([16.0, 9.0, 4.0])
        .map(|(count, weight)| {
            let expected = weight / 29.0 * f64::from(draws);
            (count - expected).powi(2) / expected
        })
        .sum();
    // 2 degrees of freedom, once in a thousand.
    assert!(chi_square < 13.82, "{chi_square} {counts:?}");
}

#[test]
fn equal_seeds_draw_equal_tokens_and_others_do_not() {
    let logits = vec![0.0; 100];
    let run = |seed| {
        let mut sampler = Sampler::new(SamplingConfig { seed, ..config() }, &[]);
        (0..32).map(|_| sampler.next(&logits).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(run(5), run(5));
    assert_ne!(run(5), run(6));
}

#[test]
fn logits_that_are_not_finite_are_an_error() {
    for temperature in [0.0, 1.0] {
        for top_p in [1.0, 0.5] {
            let mut sampler = Sampler::new(SamplingConfig { temperature, top_p, top_k: 2, ..config() }, &[]);
            assert!(sampler.next(&[0.0, f32::NAN, 1.0]).is_err(), "NaN at temperature {temperature}");
            assert!(sampler.next(&[f32::NEG_INFINITY; 3]).is_err(), "no mass at temperature {temperature}");
        }
    }
}

#[test]
fn values_out_of_range_are_named() {
    let cases: [(SamplingConfig, &str); 6] = [
        (SamplingConfig { max_new_tokens: 0, ..config() }, "max_new_tokens"),
        (SamplingConfig { temperature: f32::NAN, ..config() }, "temperature"),
        (SamplingConfig { top_p: 0.0, ..config() }, "top_p"),
        (SamplingConfig { min_p: 1.5, ..config() }, "min_p"),
        (SamplingConfig { repetition_penalty: 0.0, ..config() }, "repetition_penalty"),
        (SamplingConfig { eos_token_ids: vec![9], ..config() }, "eos_token_ids"),
    ];
    for (config, name) in cases {
        let error = config.validate(9).unwrap_err();
        assert!(error.message.contains(name), "{error}");
    }
    config().validate(9).unwrap();
}
