/**
 * Every family in every format through the `luthier` command and a real server: trained, asked, merged.
 * This says that the parts fit together; that the numbers are right is proven by the engine's own tests (docs/models.md).
 */
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  finished,
  luthier,
  removeTemporaryFolders,
  ServerProcess,
  temporaryFolder,
} from '../e2e/support/server-process.ts';
import { addTokenizer, gguf, huggingFace, type MakeModel } from './make-model.ts';

/** What `adapters merge` gives for a format: a model, or a refusal that reads so. */
type Merges = Readonly<Record<string, 'model' | RegExp>>;

interface Row {
  readonly name: string;
  readonly make: MakeModel;
  /** What merging gives, after it was trained and asked. */
  readonly merges: Merges;
}

const EVERY_FORMAT: Merges = { bf16: 'model', f16: 'model', 'gguf-f16': 'model' };
const FOLDER: Merges = { bf16: 'model' };
const EVERY_GGUF_FORMAT: Merges = { bf16: 'model', f16: 'model', 'gguf-f16': 'model', 'gguf-q8_0': 'model' };
/** Its factors are of a context of its own, shorter than Llama 3's. */
const ODD_FACTORS: Merges = { bf16: /its rope factors are none of Llama 3's/, 'gguf-q8_0': 'model' };
const ONLY_GGUF: Merges = { bf16: /cannot be merged into a folder/, 'gguf-q8_0': 'model' };
const GGUF: Merges = { bf16: 'model', 'gguf-q8_0': 'model' };

const row = (name: string, make: MakeModel, merges: Merges): Row => ({ name, make, merges });

const ROWS: readonly Row[] = [
  row('Llama, tied', huggingFace('tied/model'), FOLDER),
  row('Llama, untied', huggingFace('untied/model'), EVERY_FORMAT),
  row('Llama 3', huggingFace('families/llama3/model'), FOLDER),
  row('Llama with linear scaling and biases', huggingFace('families/linear/model'), FOLDER),
  row('Llama in pytorch_model.bin', huggingFace('torch_files/single'), FOLDER),
  row('Llama in pytorch_model.bin, two shards', huggingFace('torch_files/shards'), FOLDER),
  row('Llama, nf4 of bitsandbytes', huggingFace('bitsandbytes/nf4'), FOLDER),
  row('Llama, nf4 with double quantization', huggingFace('bitsandbytes/nf4-double'), FOLDER),
  row('Llama, int8 of bitsandbytes', huggingFace('bitsandbytes/int8'), FOLDER),
  row('Mistral', huggingFace('sliding/model'), FOLDER),
  row('Qwen2', huggingFace('families/qwen2/model'), FOLDER),
  row('Qwen3', huggingFace('families/qwen3/model'), FOLDER),
  row('Baichuan-7B', huggingFace('families/baichuan-7b/model', 'BaiChuanTokenizer'), FOLDER),
  row('Baichuan2-7B', huggingFace('families/baichuan2-7b/model', 'BaichuanTokenizer'), FOLDER),
  row('Baichuan-13B', huggingFace('families/baichuan-13b/model', 'BaichuanTokenizer'), FOLDER),
  row('Baichuan2-13B', huggingFace('families/baichuan-13b/model', 'BaichuanTokenizer', { z_loss_weight: 0 }), FOLDER),
  row(
    'ChatGLM2-6B',
    huggingFace('families/chatglm3/model', 'ChatGLMTokenizer', { _name_or_path: 'THUDM/chatglm2-6b' }),
    FOLDER,
  ),
  row('ChatGLM3-6B', huggingFace('families/chatglm3/model', 'ChatGLMTokenizer'), FOLDER),
  row('Llama in GGUF, tied', gguf('tied/model'), GGUF),
  row('Llama in GGUF, untied', gguf('untied/model'), EVERY_GGUF_FORMAT),
  row('Mistral in GGUF', gguf('sliding/model'), GGUF),
  row('Llama 3 in GGUF', gguf('families/llama3/model'), ODD_FACTORS),
  row('Llama with linear scaling in GGUF', gguf('families/linear/model'), GGUF),
  row('Qwen2 in GGUF', gguf('families/qwen2/model'), GGUF),
  row('Qwen3 in GGUF', gguf('families/qwen3/model'), GGUF),
  row('Baichuan-7B in GGUF', gguf('families/baichuan-7b/model'), ONLY_GGUF),
  row('ChatGLM3-6B in GGUF', gguf('families/chatglm3/model'), ONLY_GGUF),
];

const QUESTION = 'ab';
const ANSWER = 'cdcdcdcd';
/** FAILED_PRECONDITION. */
const REFUSED = 19;

let server: ServerProcess;
let root: string;
let data: string;

beforeAll(async () => {
  root = temporaryFolder();
  data = join(root, 'data.jsonl');
  writeFileSync(data, `${JSON.stringify({ prompt: QUESTION, completion: ANSWER })}\n`.repeat(4));
  server = await ServerProcess.start({ flags: ['--model-root', root] });
}, 60_000);

afterAll(async () => {
  await server.stop();
  removeTemporaryFolders();
});

/** Runs the command; `json` are the lines that it printed. */
async function run(...args: string[]) {
  const { code, output, stdout } = await finished(luthier([...args, '--json'], { LUTHIER_SERVER: server.address }));
  const json = () =>
    stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line) as Record<string, unknown>);
  return { code, output, json };
}

/** Runs the command, which must end well. */
async function succeed(...args: string[]) {
  const ended = await run(...args);
  expect(ended.code, ended.output).toBe(0);
  return ended.json();
}

/** How unlikely the training text is. */
async function surprise(...from: string[]): Promise<number> {
  const [scores] = await succeed('score', ...from, '--prompt', QUESTION + ANSWER);
  return Number(scores?.meanNll);
}

async function generate(...from: string[]): Promise<void> {
  const events = await succeed(
    'generate',
    ...from,
    '--prompt',
    QUESTION,
    '--max-new-tokens',
    '4',
    '--temperature',
    '0',
  );
  expect(events.at(-1)).toHaveProperty('finished');
}

/** Makes a row's model; its path, and a name for what is made from it. */
function made({ name, make }: Row): { readonly id: string; readonly path: string } {
  const id = name.toLowerCase().replace(/[^a-z0-9]+/g, '-');
  return { id, path: make(join(root, id)) };
}

const training = (path: string): string[] => {
  const settings = ['--template', 'concat-eos', '--lora-r', '4', '--learning-rate', '1e-2'];
  return ['train', '--model', path, '--data', data, ...settings];
};

async function expectRefusal(why: RegExp, ...args: string[]): Promise<void> {
  const { code, output } = await run(...args);
  expect(output).toMatch(why);
  expect(code).toBe(REFUSED);
}

describe('learns, answers and is merged', () => {
  it.each(ROWS)('$name', { timeout: 120_000 }, async (one) => {
    const { id, path } = made(one);
    const steps = ['--num-train-epochs', '12', '--per-device-train-batch-size', '4', '--output', id];
    const events = await succeed(...training(path), ...steps);
    expect(events.filter((event) => 'step' in event)).toHaveLength(12);
    await generate('--model', path);
    await generate('--adapter', id);
    const [before, after] = [await surprise('--model', path), await surprise('--adapter', id)];
    expect(after).toBeLessThan(before - 0.2);

    for (const [format, expected] of Object.entries(one.merges)) {
      const out = join(root, `${id}-${format}`);
      const merge = ['adapters', 'merge', id, '--out', out, '--format', format];
      if (expected === 'model') {
        await succeed(...merge);
        const merged = format.startsWith('gguf') ? join(out, 'model.gguf') : out;
        // A GGUF base has none to copy.
        if (merged === out) addTokenizer(out);
        // 16 and 8 bits of the merged weights.
        expect(Math.abs((await surprise('--model', merged)) - after), format).toBeLessThan(0.05 * after);
      } else {
        await expectRefusal(expected, ...merge);
        expect(existsSync(out)).toBe(false);
      }
    }
  });
});
