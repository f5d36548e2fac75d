/**
 * The demo behind `npm run demo`: a small model learns facts about Luthier from conversations, through the same contract that
 * every client uses, and is asked questions it has not seen, without and with what it learned.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Io } from '../clients/cli/src/io.ts';
import { paint } from '../clients/cli/src/io.ts';
import { maskPreview } from '../clients/cli/src/view/mask.ts';
import { TrainingView } from '../clients/cli/src/view/training-view.ts';
import { JobState, type LuthierClient, LuthierError, Status } from '../clients/typescript/src/index.ts';
import { isRight, PROMISE, type Question } from './judge.ts';
import { startServer } from './server-process.ts';

const ROOT = join(import.meta.dirname, '..');
const DATA_DIR = join(ROOT, '.luthier', 'demo');
const MODEL = 'smollm2';
const ADAPTER = 'facts';

/** Chosen so that a run takes one to three minutes on two cores; a third pass would hardly lower the held-out loss. */
const SETTINGS = {
  lora: { r: 16, loraAlpha: 32 },
  learningRate: 5e-4,
  numTrainEpochs: 2,
  perDeviceTrainBatchSize: 2,
  warmupSteps: 5,
};

const { stdin, stdout, stderr, env } = process;
const io: Io = { stdin, stdout, stderr, env };
const say = (text = ''): void => void stdout.write(`${text}\n`);
const heading = (text: string): void => say(`\n${paint(stdout, ['bold', 'cyan'], text)}`);

const demoFile = (name: string): string => join(ROOT, 'demo', name);

/** A second run begins as the first one did. */
async function forget(client: LuthierClient): Promise<void> {
  const gone = async (call: Promise<void>) => {
    try {
      await call;
    } catch (error) {
      if (!(error instanceof LuthierError && error.code === Status.NOT_FOUND)) throw error;
    }
  };
  await gone(client.deleteAdapter(`adapters/${ADAPTER}`));
  await gone(client.deleteDataset(`datasets/${ADAPTER}`));
  await gone(client.deleteDataset(`datasets/${ADAPTER}-held-out`));
}

async function answer(client: LuthierClient, question: string, adapter: string): Promise<string> {
  const messages = [{ role: 'user', content: question }];
  const prompt = { input: { $case: 'messages' as const, value: { messages } } };
  const request = { model: `models/${MODEL}`, adapter, prompt, sampling: { maxNewTokens: 40, temperature: 0 } };
  let text = '';
  for await (const { event } of client.generate(request)) if (event?.$case === 'delta') text += event.value.text;
  return text.trim();
}

/** Asks every question and prints the answers; returns how many are right. */
async function ask(client: LuthierClient, questions: readonly Question[], adapter: string): Promise<number> {
  let right = 0;
  for (const question of questions) {
    const text = await answer(client, question.question, adapter);
    const good = isRight(question, text);
    right += good ? 1 : 0;
    const mark = good ? paint(stdout, 'green', '✓') : paint(stdout, 'red', '✗');
    say(`${mark} ${paint(stdout, 'bold', question.question)}\n  ${text.replaceAll(/\s+/g, ' ')}`);
  }
  say(`${right} of ${questions.length} right`);
  return right;
}

/** Trains; returns the held-out loss before and after. */
async function train(
  client: LuthierClient,
  dataset: string,
  evalDataset: string,
): Promise<{ before: number; after: number }> {
  const view = new TrainingView(io);
  const losses: number[] = [];
  let state: JobState = JobState.JOB_STATE_UNSPECIFIED;
  const spec = { model: `models/${MODEL}`, dataset, evalDataset, output: ADAPTER, ...SETTINGS };
  for await (const event of client.train(spec)) {
    view.show(event);
    if (event.event?.$case === 'evaluation') losses.push(event.event.value.loss);
    if (event.event?.$case === 'stateChange') state = event.event.value.to;
  }
  view.close();
  if (state !== JobState.JOB_STATE_SUCCEEDED)
    throw new Error('the training job did not succeed; its last line says why');
  return { before: losses.at(0) ?? Number.NaN, after: losses.at(-1) ?? Number.NaN };
}

async function demo(modelPath: string): Promise<number> {
  const started = performance.now();
  const questions = JSON.parse(readFileSync(demoFile('questions.json'), 'utf8')) as Question[];

  heading('1. A server, in a process of its own');
  await using server = await startServer(ROOT, DATA_DIR, { [MODEL]: modelPath });
  const { client } = server;
  const info = await client.getServerInfo();
  say(
    `Luthier ${info.version} at ${server.address}: ${info.deviceName}, ${info.threads} threads, ${info.instructionSet}`,
  );
  await forget(client);

  heading('2. Conversations, and what a model will learn from one (its answers stand out)');
  const dataset = await client.uploadDatasetFile(demoFile('conversations.jsonl'), { datasetId: ADAPTER });
  const heldOut = await client.uploadDatasetFile(demoFile('held-out.jsonl'), { datasetId: `${ADAPTER}-held-out` });
  say(`${dataset.name}: ${dataset.examples} conversations; ${heldOut.name}: ${heldOut.examples}\n`);
  const source = { $case: 'dataset' as const, value: dataset.name };
  const preview = await client.previewExamples({ source, model: `models/${MODEL}`, indices: [0] });
  for (const example of preview.examples) say(maskPreview(stdout, example));

  heading('3. Questions in words that no conversation has, before training');
  const rightWithout = await ask(client, questions, '');

  heading('4. Training');
  const { before, after } = await train(client, dataset.name, heldOut.name);

  heading('5. The same questions, with the adapter');
  const rightWith = await ask(client, questions, `adapters/${ADAPTER}`);

  heading('6. Result');
  const kept = rightWith >= PROMISE.rightWith && rightWithout <= PROMISE.rightWithout && after < before;
  say(`right answers without the adapter: ${rightWithout} of ${questions.length} (at most ${PROMISE.rightWithout})`);
  say(`right answers with the adapter:    ${rightWith} of ${questions.length} (at least ${PROMISE.rightWith})`);
  say(`held-out loss: ${before.toFixed(3)} before, ${after.toFixed(3)} after`);
  say(`${Math.round((performance.now() - started) / 1000)} s in all`);
  say(
    kept
      ? paint(stdout, 'green', 'The demo did what it promises.')
      : paint(stdout, 'red', 'The demo missed its promise.'),
  );
  say(
    `\nThe adapter stays. Chat with it:\n  npx luthier chat --model ${modelPath} --adapter ${ADAPTER} --data-dir .luthier/demo`,
  );
  return kept ? 0 : 1;
}

const modelPath = process.argv[2];
if (modelPath === undefined)
  throw new Error('usage: demo/run.ts MODEL.gguf; `npm run demo` fetches one and calls this');
process.once('SIGINT', () => process.exit(130));
process.once('SIGTERM', () => process.exit(143));
try {
  process.exitCode = await demo(modelPath);
} catch (error) {
  const violations =
    error instanceof LuthierError ? error.violations.map((v) => `\n  ${v.field}: ${v.description}`) : [];
  console.error(`\ndemo: ${error instanceof Error ? error.message : String(error)}${violations.join('')}`);
  process.exitCode = 1;
}
