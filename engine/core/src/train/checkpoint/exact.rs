//! f64 in JSON, as text: the shortest that reads back as the same number, `NaN`, `inf` or `-inf`. Numbers of JSON have none of the latter, and
//! readers may round them.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{value:?}"))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| D::Error::custom(format!("`{text}` is no number")))
}

/// A number that is written so.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Exact(#[serde(with = "super::exact")] pub f64);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::MersenneTwister;

    #[test]
    fn every_number_is_read_back_bit_for_bit() {
        let mut random = MersenneTwister::new(7);
        let mut bits = || f64::from_bits(u64::from(random.next_u32()) << 32 | u64::from(random.next_u32()));
        let mut numbers = vec![0.0, -0.0, 0.1, 1.0 / 3.0, f64::MAX, 5e-324, f64::INFINITY, f64::NEG_INFINITY];
        numbers.extend((0..10_000).map(|_| bits()).filter(|number| !number.is_nan()));
        for number in numbers {
            let text = serde_json::to_string(&Exact(number)).unwrap();
            let found: Exact = serde_json::from_str(&text).unwrap();
            assert_eq!(found.0.to_bits(), number.to_bits(), "{text}");
        }
        let nan: Exact = serde_json::from_str(&serde_json::to_string(&Exact(f64::NAN)).unwrap()).unwrap();
        assert!(nan.0.is_nan());
        assert!(serde_json::from_str::<Exact>("\"one\"").is_err() && serde_json::from_str::<Exact>("1").is_err());
    }
}
