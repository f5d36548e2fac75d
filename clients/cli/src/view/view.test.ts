import { stripVTControlCharacters } from 'node:util';
import { expect, test } from 'vitest';
import { ExamplePreview, JobState, StateChange, TrainingEvent } from '../../../typescript/src/index.ts';
import { formatBytes, formatCount, formatSeconds, formatTable } from '../format.ts';
import { capturedIo } from '../testing/captured-io.ts';
import { progressBar } from './bar.ts';
import { lossCurve } from './curve.ts';
import { maskPreview } from './mask.ts';
import { TrainingView } from './training-view.ts';

test('numbers for people', () => {
  expect([0, 1023, 1024, 1.5 * 2 ** 30].map(formatBytes)).toEqual(['0 B', '1023 B', '1.0 KiB', '1.5 GiB']);
  expect([9.4, 65, 3599, 7260].map(formatSeconds)).toEqual(['9 s', '1 min 05 s', '59 min 59 s', '2 h 01 min']);
  expect([999, 12_345, 134_515_008].map(formatCount)).toEqual(['999', '12.3 k', '134.5 M']);
  expect(formatTable(['A', 'LONG'], [['wide cell', 'x']])).toEqual(['A          LONG', 'wide cell  x']);
});

test('a bar has its width at every share', () => {
  for (let share = -0.1; share < 1.2; share += 0.013) expect([...progressBar(share, 20)]).toHaveLength(20);
  expect(progressBar(0, 4)).toBe('░░░░');
  expect(progressBar(0.5, 4)).toBe('██░░');
  expect(progressBar(1, 4)).toBe('████');
});

test('a falling loss is drawn from the upper left to the lower right', () => {
  const lines = lossCurve([4, 3, 2, 1], 10, 2);
  // Four points, eight levels: 4 at the top (level 7), 1 at the bottom (level 0).
  expect(lines).toEqual(['  4.000 ⠡⠀', '  1.000 ⠀⢂']);
  expect(lossCurve([1], 10, 2)).toEqual([]);
  expect(lossCurve([2, Number.NaN, 2], 10, 2)).toHaveLength(2);
});

test('a curve of many steps stays within its width', () => {
  const many = Array.from({ length: 5000 }, (_, step) => 1 / (step + 1));
  for (const line of lossCurve(many, 40, 4)) expect([...line].length).toBeLessThanOrEqual(40);
});

const preview = ExamplePreview.create({
  index: 2,
  labelTokens: 2,
  tokens: [
    { id: 1, text: 'Hi', label: -100, segment: 'prompt' },
    { id: 2, text: '\n', label: -100, segment: 'prompt' },
    { id: 3, text: 'Yes\u001b[2J', label: 3, segment: 'answer' },
    { id: 4, text: '', label: 9, segment: 'end' },
  ],
});

test('without colour the learned part stands in brackets; control characters do not reach the terminal', () => {
  expect(maskPreview(capturedIo().stdout, preview)).toBe('Hi⏎\n⟦Yes·[2J⟨9⟩⟧\nexample 2: 2 of 4 tokens are learned');
});

const step = (globalStep: number, loss: number, more: { gradNorm?: number; skipped?: boolean } = {}) =>
  TrainingEvent.create({
    sequence: globalStep,
    job: 'trainingJobs/t',
    event: {
      $case: 'step',
      value: { globalStep, maxSteps: 2, loss, tokensPerSecond: 100, etaSeconds: 3, learningRate: 1e-5, ...more },
    },
  });

const ended = TrainingEvent.create({
  sequence: 3,
  job: 'trainingJobs/t',
  event: {
    $case: 'stateChange',
    value: { to: JobState.JOB_STATE_FAILED, failure: { reason: 'NON_FINITE_LOSS', message: 'loss is NaN' } },
  },
});

test('without a terminal every event is a line', () => {
  const io = capturedIo();
  const view = new TrainingView(io);
  for (const event of [step(1, 2), step(2, 1), ended]) view.show(event);
  view.close();
  const lines = io.out().trimEnd().split('\n');
  expect(lines).toHaveLength(3);
  expect(lines[0]).toBe('step 1/2  epoch 0.00  loss 2.0000  grad_norm 0.000  lr 1.00e-5  100 tok/s  ETA 3 s');
  expect(lines[2]).toBe('failed  trainingJobs/t: loss is NaN (NON_FINITE_LOSS)');
});

test('a job that pauses and goes on says where', () => {
  const io = capturedIo();
  const view = new TrainingView(io);
  const show = (event: TrainingEvent['event']) => view.show(TrainingEvent.create({ job: 'trainingJobs/t', event }));
  const checkpoint = { globalStep: 7, sizeBytes: 2048, createTime: undefined };
  show({ $case: 'checkpointSaved', value: { checkpoint, seconds: 0.254 } });
  show({ $case: 'stateChange', value: StateChange.create({ to: JobState.JOB_STATE_PAUSED }) });
  show({ $case: 'jobResumed', value: { checkpoint, differences: ['threads: 2 then, 4 now'], skippedCheckpoints: [] } });
  show({ $case: 'jobResumed', value: { checkpoint: undefined, differences: [], skippedCheckpoints: [] } });
  view.close();
  expect(io.out().trimEnd().split('\n')).toEqual([
    'checkpoint at step 7, 2.0 KiB, written in 0.25 s',
    'paused  trainingJobs/t; it goes on with: luthier jobs resume trainingJobs/t',
    'goes on from step 7; the last digits may differ: threads: 2 then, 4 now',
    'goes on from the start: there is no checkpoint',
  ]);
});

test('a skipped step says so', () => {
  const io = capturedIo();
  const view = new TrainingView(io);
  view.show(step(1, 2, { gradNorm: Number.POSITIVE_INFINITY, skipped: true }));
  view.close();
  expect(io.out()).toMatch(/grad_norm Infinity .* skipped: loss or gradients are no finite numbers\n$/);
});

test('on a terminal the picture is redrawn in place and the last one stays', () => {
  const io = capturedIo({ terminal: 60 });
  const view = new TrainingView(io);
  for (const event of [step(1, 2), step(2, 1), ended]) view.show(event);
  view.close();
  const text = io.out();
  const last = stripVTControlCharacters(text.slice(text.lastIndexOf('\u001b[J')));
  expect(last).toContain('100 %');
  expect(last).toContain('step 2/2  loss 1.0000');
  for (const line of stripVTControlCharacters(text).split('\n')) expect([...line].length).toBeLessThan(60);
});
