//! Numbers by character.

use std::collections::HashMap;

use crate::pair_table::NONE;

const BASIC: usize = 0x10000;

/// An array for the characters of 16 bits, which texts are made of, and a map for the others.
pub struct CharacterTable {
    basic: Vec<u32>,
    beyond: HashMap<char, u32>,
}

impl CharacterTable {
    pub fn new() -> Self {
        Self { basic: vec![NONE; BASIC], beyond: HashMap::new() }
    }

    /// `NONE` where the character has no number.
    pub fn get(&self, character: char) -> u32 {
        match self.basic.get(character as usize) {
            Some(number) => *number,
            None => self.beyond.get(&character).copied().unwrap_or(NONE),
        }
    }

    pub fn insert(&mut self, character: char, number: u32) {
        match self.basic.get_mut(character as usize) {
            Some(place) => *place = number,
            None => _ = self.beyond.insert(character, number),
        }
    }
}
