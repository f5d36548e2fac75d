//! The linear layers of a block, and which of them share an input.

use crate::config::ModelConfig;

/// A linear layer of a block, in the order of its use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LinearModule {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// All of them, in the order of their use.
pub const LINEAR_MODULES: [LinearModule; 7] = [
    LinearModule::Query,
    LinearModule::Key,
    LinearModule::Value,
    LinearModule::Output,
    LinearModule::Gate,
    LinearModule::Up,
    LinearModule::Down,
];

/// Linear layers that read the same input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InputGroup {
    QueryKeyValue,
    Output,
    GateUp,
    Down,
}

/// All groups, in the order of their use.
pub const INPUT_GROUPS: [InputGroup; 4] =
    [InputGroup::QueryKeyValue, InputGroup::Output, InputGroup::GateUp, InputGroup::Down];

impl InputGroup {
    /// The group's layers.
    pub fn modules(self) -> &'static [LinearModule] {
        match self {
            Self::QueryKeyValue => &LINEAR_MODULES[0..3],
            Self::Output => &LINEAR_MODULES[3..4],
            Self::GateUp => &LINEAR_MODULES[4..6],
            Self::Down => &LINEAR_MODULES[6..7],
        }
    }
}

impl LinearModule {
    /// Path inside the block, such as `self_attn.q_proj`.
    pub fn path(self) -> &'static str {
        match self {
            Self::Query => "self_attn.q_proj",
            Self::Key => "self_attn.k_proj",
            Self::Value => "self_attn.v_proj",
            Self::Output => "self_attn.o_proj",
            Self::Gate => "mlp.gate_proj",
            Self::Up => "mlp.up_proj",
            Self::Down => "mlp.down_proj",
        }
    }

    /// Last component of the path, such as `q_proj`.
    pub fn name(self) -> &'static str {
        let path = self.path();
        path.rsplit_once('.').map_or(path, |(_, name)| name)
    }

    /// Whether the model's has a bias.
    pub fn has_bias(self, config: &ModelConfig) -> bool {
        match self {
            Self::Query | Self::Key | Self::Value => config.variant.query_key_value_bias,
            Self::Output => config.variant.output_bias,
            Self::Gate | Self::Up | Self::Down => config.variant.mlp_bias,
        }
    }

    /// `(out_features, in_features)`
    pub fn shape(self, config: &ModelConfig) -> (usize, usize) {
        let ModelConfig { hidden_size, intermediate_size, .. } = *config;
        match self {
            Self::Query => (config.query_size(), hidden_size),
            Self::Key | Self::Value => (config.key_value_size(), hidden_size),
            Self::Output => (hidden_size, config.query_size()),
            Self::Gate | Self::Up => (intermediate_size, hidden_size),
            Self::Down => (hidden_size, intermediate_size),
        }
    }
}
