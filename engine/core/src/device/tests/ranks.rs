//! Several devices as one.

use super::*;
use crate::lora::peft::PeftAdapter;
use crate::train::TrainingStep;
use crate::train::checkpoint::Checkpoint;

/// Four examples; `steps` steps of two micro-batches of one.
fn four(model: &Arc<LoadedModel>, accumulation: usize, steps: u64) -> TrainingRequest {
    let mut request = request(model.clone());
    request.config.gradient_accumulation_steps = accumulation;
    request.config.max_steps = Some(steps);
    let ids: Vec<u32> = (1..17).collect();
    let labels = ids.iter().map(|id| *id as i32).collect();
    request.train = Box::new(TokenExamples { input_ids: ids, labels, offsets: vec![0, 3, 8, 11, 16] });
    request
}

fn two_processors() -> Device {
    Device::open_ranks(2, 2).unwrap()
}

/// Two that compute as GPUs do, each with weights of its own.
fn two_accelerators() -> Device {
    let names = ["gpu:0", "gpu:1"].map(str::to_owned);
    let others = Others::new(&names, vec![CpuOps::<f32>::new(1)], || shared_memory(2, Some(1))).unwrap();
    let accelerator = Accelerator { ops: Arc::new(CpuOps::<f32>::new(1)), loss_scaling: None, others };
    Device::start(Arc::new(accelerator), DeviceInfo::of_processor(2)).unwrap()
}

fn finish(run: &TrainingRun) -> (Vec<TrainingStep>, PeftAdapter) {
    let mut steps = Vec::new();
    loop {
        let batch = next(&run.events);
        for event in batch.items {
            if let RunEvent::Training(TrainingEvent::Step(step)) = event {
                steps.push(step);
            }
        }
        if let Some(end) = batch.end {
            end.unwrap();
            return (steps, run.adapter().unwrap());
        }
    }
}

#[test]
fn several_devices_train_as_one_that_accumulates_more() {
    let alone = Device::open(2).unwrap();
    let (expected, adapter) = finish(&start(&alone, four(&tiny(&alone), 2, 6)).unwrap());
    for device in [two_processors(), two_accelerators()] {
        let (steps, found) = finish(&start(&device, four(&tiny(&device), 1, 6)).unwrap());
        assert_eq!(steps.len(), expected.len());
        for (step, expected) in steps.iter().zip(&expected) {
            assert!((step.loss / expected.loss - 1.0).abs() < 1e-6, "{} {}", step.loss, expected.loss);
            assert_eq!((step.tokens, step.devices.len()), (expected.tokens, 2));
        }
        let pairs = found.modules.values().zip(adapter.modules.values());
        let numbers = pairs.flat_map(|(a, b)| a.a.iter().zip(&b.a).chain(a.b.iter().zip(&b.b)));
        assert!(numbers.into_iter().all(|(a, b)| (a - b).abs() < 1e-6));
    }
    assert_eq!(two_processors().info().devices, ["cpu:0", "cpu:1"]);
}

/// Turns of two runs come in one order on every device, so that no rank of one waits for a rank of the other.
#[test]
fn runs_and_requests_share_several_devices() {
    for device in [two_processors(), two_accelerators()] {
        let model = tiny(&device);
        let runs = [0, 1, 2].map(|_| start(&device, four(&model, 2, 20)).unwrap());
        assert_eq!(twenty(&device, &model, None).len(), 20);
        runs[1].cancel();
        let [first, last] = [&runs[0], &runs[2]].map(finish);
        assert_eq!((first.0.len(), first.1), (20, last.1));
        while next(&runs[1].events).end.is_none() {}
    }
}

#[test]
fn more_devices_than_examples_are_refused() {
    let device = two_processors();
    let error = start(&device, request(tiny(&device))).err().unwrap();
    assert_eq!(error.code, ErrorCode::InvalidArgument);
    assert!(error.message.contains("2 devices share 1 training examples"), "{error}");
}

/// The steps that a run tells until it is paused, and its checkpoint.
fn paused(run: &TrainingRun) -> (Vec<TrainingStep>, Checkpoint) {
    let mut steps = Vec::new();
    loop {
        let batch = next(&run.events);
        for event in batch.items {
            match event {
                RunEvent::Training(TrainingEvent::Step(step)) => steps.push(step),
                RunEvent::Paused(global_step) => {
                    let folder = std::env::temp_dir().join(format!("luthier-ranks-paused-{}", std::process::id()));
                    std::fs::create_dir(&folder).unwrap();
                    let saved = run.write_checkpoint(&folder).unwrap();
                    let checkpoint = Checkpoint::read(&folder).unwrap();
                    std::fs::remove_dir_all(&folder).unwrap();
                    assert_eq!([saved.global_step, checkpoint.global_step()], [global_step; 2]);
                    return (steps, checkpoint);
                }
                _ => {}
            }
        }
        assert!(batch.end.is_none(), "the run ended with {:?}", batch.end);
        if !steps.is_empty() {
            run.pause();
        }
    }
}

/// The first steps of a run, so many or a few more.
fn first_steps(run: &TrainingRun, count: usize) -> Vec<TrainingStep> {
    let mut steps = Vec::new();
    while steps.len() < count {
        let batch = next(&run.events);
        steps.extend(batch.items.into_iter().filter_map(|event| match event {
            RunEvent::Training(TrainingEvent::Step(step)) => Some(step),
            _ => None,
        }));
        assert!(batch.end.is_none(), "the run ended with {:?}", batch.end);
    }
    steps
}

/// A pause comes after a whole step of all; who goes on has the numbers of the run that was not paused. One device alone may not.
#[test]
fn a_run_on_several_devices_is_paused_and_goes_on() {
    // Far more steps than anybody waits for.
    let long = |model: &Arc<LoadedModel>| four(model, 2, 5000);
    for device in [two_processors(), two_accelerators()] {
        let model = tiny(&device);
        let (mut steps, checkpoint) = paused(&start(&device, long(&model)).unwrap());
        assert_eq!(steps.len() as u64, checkpoint.global_step());
        let resumed = TrainingRequest { resume_from: Some(checkpoint), ..long(&model) };
        steps.extend(first_steps(&start(&device, resumed).unwrap(), 3));
        let whole = first_steps(&start(&device, long(&model)).unwrap(), steps.len());
        for (step, expected) in steps.iter().zip(&whole) {
            let numbers = |step: &TrainingStep| (step.global_step, step.loss.to_bits(), step.grad_norm.to_bits());
            assert_eq!(numbers(step), numbers(expected));
        }
    }
    let (one, two) = (Device::open(2).unwrap(), two_processors());
    let (_, checkpoint) = paused(&start(&two, long(&tiny(&two))).unwrap());
    let request = TrainingRequest { resume_from: Some(checkpoint), ..long(&tiny(&one)) };
    let error = start(&one, request).err().unwrap();
    assert_eq!(error.code, ErrorCode::CheckpointMismatch, "{error}");
}
