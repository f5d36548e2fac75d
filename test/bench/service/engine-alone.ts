/**
 * The engine alone in a process: loads a model, trains, and reports every step. Started by `train.ts`; by hand:
 *
 *     node test/bench/service/engine-alone.ts MODEL THREADS BATCH LENGTH STEPS < /dev/tty
 */
import { openNativeEngine } from '../../../src/engine/native.ts';
import { engineConfig } from '../../../src/jobs/engine-config.ts';
import { followParent, report } from './children.ts';
import { examples, trainingSpec } from './workload.ts';

const { leave } = followParent();
const [model = '', ...numbers] = process.argv.slice(2);
const [threads = 1, batch = 1, length = 1, steps = 1] = numbers.map(Number);
const shape = { batch, length, steps };

const engine = await openNativeEngine({ device: 'cpu', threads, computeType: 'bf16', embeddingInHostMemory: false });
const base = await engine.loadModel(model, 'stored');
const run = await base.train(engineConfig(trainingSpec(shape), null, length), examples(shape), null);
for await (const event of run.events()) {
  if (event.kind === 'step') report({ step: event.step.globalStep, loss: event.step.loss });
}
run.close();
base.close();
await engine.close();
leave();
