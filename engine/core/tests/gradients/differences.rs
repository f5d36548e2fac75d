//! Central differences of a function of several buffers.

/// Reproducible numbers in ±1.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    }

    pub fn many(&mut self, count: usize) -> Vec<f64> {
        (0..count).map(|_| self.next()).collect()
    }
}

/// Step of the differences: the error of the method, about its square, and the rounding error, about 1e-16 over it, are both near 1e-10.
const STEP: f64 = 1e-5;

/// Compares `gradients` with differences of `function` at every number of every input (of long inputs, at some).
pub fn check(name: &str, inputs: &[Vec<f64>], gradients: &[Vec<f64>], function: impl Fn(&[Vec<f64>]) -> f64) {
    assert_eq!(inputs.len(), gradients.len());
    for (which, gradient) in gradients.iter().enumerate() {
        assert_eq!(gradient.len(), inputs[which].len(), "{name}: gradient {which}");
        let largest = gradient.iter().fold(0f64, |largest, value| largest.max(value.abs()));
        assert!(largest > 1e-6, "{name}: gradient {which} is all zeros, which tests nothing");
        for index in (0..gradient.len()).step_by((gradient.len() / 97).max(1)) {
            let at = |step: f64| {
                let mut moved = inputs.to_vec();
                moved[which][index] += step;
                function(&moved)
            };
            let expected = (at(STEP) - at(-STEP)) / (2.0 * STEP);
            let found = gradient[index];
            let allowed = 1e-7 * largest.max(1.0);
            assert!(
                (found - expected).abs() < allowed,
                "{name}: input {which} at {index}: {found}, expected {expected}"
            );
        }
    }
}
