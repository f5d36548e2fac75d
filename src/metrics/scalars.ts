/** A job's events as scalars under the names that transformers' Trainer logs to TensorBoard (integrations: `rewrite_logs`). */
import type {
  DeviceStep,
  TrainingEvaluation,
  TrainingEvent,
  TrainingStep,
} from '../gen/luthier/v1/training_service.ts';
import type { ScalarEvent } from './event-file.ts';

/** Scalars of one stored event. */
export interface JobScalars extends ScalarEvent {
  /** The event's sequence number. */
  readonly sequence: number;
}

/** Of several devices, by rank. */
const deviceValues = (devices: readonly DeviceStep[]): Record<string, number> =>
  Object.fromEntries(
    devices.flatMap((device, rank) => [
      [`train/device_${rank}/tokens_per_second`, device.tokensPerSecond],
      [`train/device_${rank}/peak_allocated_bytes`, device.peakAllocatedBytes],
      [`train/device_${rank}/communication_share`, device.communicationShare],
    ]),
  );

const stepValues = (step: TrainingStep, tokensSeen: number): Record<string, number> => ({
  'train/loss': step.loss,
  'train/grad_norm': step.gradNorm,
  'train/learning_rate': step.learningRate,
  'train/epoch': step.epoch,
  'train/num_input_tokens_seen': tokensSeen,
  'train/tokens_per_second': step.tokensPerSecond,
  'train/allocated_bytes': step.allocatedBytes,
  'train/peak_allocated_bytes': step.peakAllocatedBytes,
  'train/skipped_steps': step.skippedSteps,
  ...(step.devices.length > 1 ? deviceValues(step.devices) : {}),
});

/** `eval/loss` is the mean of the batches' means, which is what Trainer logs under this name. */
const evaluationValues = (evaluation: TrainingEvaluation): Record<string, number> => ({
  'eval/loss': evaluation.trainerLoss,
  'eval/token_loss': evaluation.loss,
});

/** The scalars of every step and evaluation. @param events From a job's first one on. */
export async function* scalarsOf(events: AsyncIterable<TrainingEvent>): AsyncGenerator<JobScalars, void, undefined> {
  let tokensSeen = 0;
  for await (const { sequence, time = new Date(0), event } of events) {
    if (event?.$case === 'step') {
      tokensSeen += event.value.tokens;
      yield { sequence, time, step: event.value.globalStep, values: stepValues(event.value, tokensSeen) };
    } else if (event?.$case === 'evaluation') {
      yield { sequence, time, step: event.value.globalStep, values: evaluationValues(event.value) };
    }
  }
}
