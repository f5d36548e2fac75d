import { readdirSync } from 'node:fs';
import { expect, it } from 'vitest';
import { templateFileText, templateIdentity } from './definition.ts';
import { preset } from './presets.ts';
import { parseTemplateFile } from './template-file.ts';
import { PRESET_NAMES } from './template-names.ts';

const presets = PRESET_NAMES.map((name) => {
  const file = preset(name);
  if (file === null) throw new Error(`${name} is no preset`);
  return { name, ...file };
});

it('every file is a preset of its name', () => {
  const folder = new URL('presets', import.meta.url);
  expect(readdirSync(folder).sort()).toEqual([...PRESET_NAMES].map((name) => `${name}.yaml`).sort());
  for (const { name, id, description } of presets) {
    expect(id).toBe(name);
    expect(description).not.toBe('');
  }
});

/** Stored with adapters: a preset that is to write something else gets another version, and its hash here. */
it('their texts are those that adapters were trained with', () => {
  const hashes = presets.map(({ id, version, definition }) => [
    `${id} ${version}`,
    templateIdentity(id, version, definition).hash.slice(0, 16),
  ]);
  expect(Object.fromEntries(hashes)).toEqual({
    'alpaca 1': 'adc819ebec044f3f',
    'baichuan 1': '61caf6c91e7ac239',
    'baichuan2 1': '5140309ab51743c5',
    'chatglm 1': 'd6bd6f34a481426a',
    'chatglm2 1': '70a9b2f8004e24fb',
    'chatml 1': 'f0648283edb2a83c',
    'concat 1': 'fa0fff0346eaa167',
    'concat-eos 1': 'e84ae20c400aeeb2',
    'instruction 1': '467394a50c1a04a0',
    'instruction-output 1': '06977fbf15be60cd',
    'llama2 1': '2f9f659bdb103be2',
    'llama3 1': 'ca9be6d1e68c6c00',
    'mistral 1': '03d5a52da9614424',
    'qwen 1': '0178e01a5a99d175',
    'tutorial 1': '5d38927435e360d2',
  });
});

it('an adapter keeps a text that reads back as the same template', () => {
  for (const { id, version, definition } of presets) {
    const read = parseTemplateFile(templateFileText(id, version, definition));
    expect(read.definition).toEqual(definition);
    expect(templateIdentity(read.id, read.version, read.definition)).toEqual(templateIdentity(id, version, definition));
  }
});

it('a member with its default is not part of the hash', () => {
  const hash = (text: string): string => templateIdentity('a', '1', parseTemplateFile(text).definition).hash;
  const plain = hash('{"id":"a","user":"{content}"}');
  expect(hash('{"id":"a","user":"{content}","firstRound":1,"system":null,"stop":[]}')).toBe(plain);
  expect(hash('{"id":"a","user":"{content}","firstRound":0}')).not.toBe(plain);
  expect(hash('{"id":"a","user":"{content} "}')).not.toBe(plain);
});
