//! The GPU beside the processor, operation by operation. Needs the feature `cuda` and a GPU, numbered by `LUTHIER_TEST_GPU` (0 unless set).

mod attention;
mod blocks;
mod cached_attention;
mod checkpoint;
mod compare;
mod data_parallel;
mod dropout;
mod elementwise;
mod generation;
mod memory;
mod noise;
mod plan;
mod products;
#[path = "../support/random_model.rs"]
mod random_model;
mod ranks;
mod selected_rows;
#[expect(dead_code, reason = "runs that are cut at random are for the processor")]
#[path = "../shared/checkpoint.rs"]
mod shared_checkpoint;
mod transfers;
mod weights;
