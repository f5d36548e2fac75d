import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { Adapter, GenerateResponse, TrainingEvent } from '../../typescript/src/index.ts';
import { toCanonicalJson, UINT64_FIELDS } from './json.ts';

test('every 64-bit field of the contract is known', () => {
  const folder = join(import.meta.dirname, '..', '..', '..', 'proto', 'luthier', 'v1');
  const text = readdirSync(folder)
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .join('\n');
  const camel = (name: string) => name.replace(/_(.)/g, (_, letter: string) => letter.toUpperCase());
  const fields = [...text.matchAll(/^\s*(?:repeated |optional )?(?:uint64|int64|sint64|fixed64) (\w+) =/gm)];
  expect(new Set(fields.map((match) => camel(match[1] ?? '')))).toEqual(UINT64_FIELDS);
});

test('zero values and empty lists are written out, 64-bit integers as text, in the order of the contract', () => {
  const event = TrainingEvent.create({
    sequence: 12,
    time: new Date(0),
    job: 'trainingJobs/t',
    event: { $case: 'plan', value: { maxSteps: 3, trainableParameters: 2 ** 40 } },
  });
  expect(JSON.stringify(toCanonicalJson(TrainingEvent, event))).toBe(
    '{"sequence":12,"time":"1970-01-01T00:00:00.000Z","job":"trainingJobs/t","plan":{"maxSteps":3,"examples":0,' +
      '"evalExamples":0,"tokens":0,"labelTokens":0,"trainableParameters":"1099511627776","targetModules":[],"baseModelHash":""}}',
  );
  const delta = GenerateResponse.create({ event: { $case: 'delta', value: { tokenIds: [0] } } });
  expect(toCanonicalJson(GenerateResponse, delta)).toEqual({ delta: { text: '', tokenIds: [0], logprobs: [] } });
  expect(toCanonicalJson(Adapter, Adapter.create({ sizeBytes: 5 }))).toMatchObject({
    sizeBytes: '5',
    parameterCount: '0',
  });
});
