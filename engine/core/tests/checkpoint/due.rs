//! When checkpoints are due, and runs that are told to end.

use luthier_core::ErrorCode;
use luthier_core::ops::cpu::CpuOps;
use luthier_core::train::{Progress, Trainer, TrainingEvent};

use crate::case;
use crate::shared::finish;

/// `s3`: step 3; `e3`: the evaluation after it; `c3`: a checkpoint is due; `f`: the end.
fn story(mut trainer: Trainer<CpuOps<f32>>, mut after: impl FnMut(&mut Trainer<CpuOps<f32>>, &str)) -> Vec<String> {
    let mut story = Vec::new();
    loop {
        let word = match trainer.advance().unwrap() {
            Progress::Pending => {
                after(&mut trainer, "");
                continue;
            }
            Progress::CheckpointDue => format!("c{}", trainer.global_step()),
            Progress::Event(TrainingEvent::Started(_)) => "started".to_owned(),
            Progress::Event(TrainingEvent::Step(step)) => format!("s{}", step.global_step),
            Progress::Event(TrainingEvent::Evaluation(result)) => format!("e{}", result.global_step),
            Progress::Event(TrainingEvent::Finished) => "f".to_owned(),
            Progress::Finished => return story,
        };
        after(&mut trainer, &word);
        story.push(word);
    }
}

#[test]
fn checkpoints_are_due_after_a_steps_evaluation_and_never_at_the_end() {
    let case = case(|config| {
        config.save_steps = Some(2);
        config.eval_steps = Some(4);
        config.max_steps = Some(6);
    });
    let expected = ["started", "e0", "s1", "s2", "c2", "s3", "s4", "e4", "c4", "s5", "s6", "e6", "f"];
    assert_eq!(story(case.trainer(), |_, _| {}), expected);
    // Gone on from between two steps, from an evaluation, and from the step before.
    let mut trainer = case.trainer();
    let (mut at_4, mut in_evaluation, mut at_3) = (None, None, None);
    while at_4.is_none() {
        let progress = trainer.advance().unwrap();
        match (trainer.global_step(), progress) {
            (4, Progress::CheckpointDue) => at_4 = Some(trainer.checkpoint(None).unwrap()),
            (4, Progress::Event(TrainingEvent::Step(_))) => in_evaluation = Some(trainer.checkpoint(None).unwrap()),
            (3, Progress::Event(TrainingEvent::Step(_))) => at_3 = Some(trainer.checkpoint(None).unwrap()),
            _ => {}
        }
    }
    let gone_on = |snapshot: &Option<_>| story(case.moved(snapshot.as_ref().unwrap()), |_, _| {});
    assert_eq!(gone_on(&at_4), ["started", "s5", "s6", "e6", "f"]);
    assert_eq!(gone_on(&in_evaluation), ["started", "e4", "c4", "s5", "s6", "e6", "f"]);
    assert_eq!(gone_on(&at_3), ["started", "s4", "e4", "c4", "s5", "s6", "e6", "f"]);
}

#[test]
fn a_checkpoint_that_is_asked_for_is_due_once_after_the_step_under_way() {
    let case = case(|config| config.max_steps = Some(3));
    let asked_at = |place: &'static str| {
        story(case.trainer(), move |trainer, word| {
            if word == place {
                trainer.request_checkpoint();
                trainer.request_checkpoint();
            }
        })
    };
    assert_eq!(asked_at("started"), ["started", "e0", "c0", "s1", "s2", "e2", "s3", "e3", "f"]);
    assert_eq!(asked_at("s1"), ["started", "e0", "s1", "c1", "s2", "e2", "s3", "e3", "f"]);
    assert_eq!(asked_at("s2"), ["started", "e0", "s1", "s2", "e2", "c2", "s3", "e3", "f"]);
    assert_eq!(asked_at("s3"), ["started", "e0", "s1", "s2", "e2", "s3", "e3", "f"], "the run is over then");
    let mut trainer = case.trainer();
    trainer.request_checkpoint();
    assert_eq!(story(trainer, |_, _| {})[2], "c0");
}

#[test]
fn a_run_that_is_told_to_stop_ends_as_one_of_so_many_steps() {
    let case = case(|config| config.eval_steps = Some(2));
    let stopped_at = |place: &'static str| {
        let mut asked = false;
        story(case.trainer(), move |trainer, word| {
            if word == place && !asked {
                asked = true;
                trainer.stop_after_step();
                trainer.stop_after_step();
            }
        })
    };
    // At the beginning, the first step; between two steps, the one before; in a step, that one.
    assert_eq!(stopped_at("started"), ["started", "e0", "s1", "e1", "f"]);
    assert_eq!(stopped_at("e0"), ["started", "e0", "s1", "e1", "f"]);
    assert_eq!(stopped_at("s1"), ["started", "e0", "s1", "e1", "f"]);
    assert_eq!(stopped_at("s2"), ["started", "e0", "s1", "s2", "e2", "f"]);
    assert_eq!(stopped_at("e2"), ["started", "e0", "s1", "s2", "e2", "f"], "it was evaluated already");
    let in_step = story(case.trainer(), |trainer, word| {
        if word.is_empty() && trainer.global_step() == 3 {
            trainer.stop_after_step();
        }
    });
    assert_eq!(in_step, ["started", "e0", "s1", "s2", "e2", "s3", "s4", "e4", "f"]);
    let mut trainer = case.trainer();
    trainer.stop_after_step();
    assert_eq!(story(trainer, |_, _| {}), ["started", "e0", "s1", "e1", "f"]);
}

/// The schedule stays that of the whole run, and who goes on does not stop unless asked again.
#[test]
fn stopping_is_forgotten_by_who_goes_on() {
    let case = case(|config| config.load_best_model_at_end = true);
    let whole = finish(case.trainer());
    let mut trainer = case.trainer();
    while trainer.global_step() < 3 {
        trainer.advance().unwrap();
    }
    let snapshot = trainer.checkpoint(None).unwrap();
    trainer.stop_after_step();
    let stopped = finish(trainer);
    assert_eq!(stopped.events.len(), 2, "an evaluation and the end");
    let rest = finish(case.moved(&snapshot));
    assert!(whole.events.ends_with(&rest.events) && rest.adapter == whole.adapter);
    assert_eq!(rest.events[0][..2], [1, 4]);
}

#[test]
fn a_run_that_is_over_has_no_state() {
    let case = case(|config| config.max_steps = Some(1));
    let mut trainer = case.trainer();
    while trainer.advance().unwrap() != Progress::Finished {}
    assert_eq!(trainer.checkpoint(None).err().unwrap().code, ErrorCode::InvalidArgument);
    trainer.stop_after_step();
    trainer.request_checkpoint();
    assert_eq!(trainer.advance().unwrap(), Progress::Finished);
}
