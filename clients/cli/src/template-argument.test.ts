import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { promptOf } from './prompt-input.ts';
import { templateOf } from './template-argument.ts';

test('--template is an id, or a file whose text is sent', () => {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-template-'));
  try {
    const path = join(folder, 'mine.yaml');
    writeFileSync(path, 'id: mine\nuser: "{content}"\n');
    expect(templateOf('chatml')).toBe('chatml');
    expect(templateOf('a.b-c')).toBe('a.b-c');
    expect(templateOf(path)).toBe('id: mine\nuser: "{content}"\n');
    expect(() => templateOf(join(folder, 'other'))).toThrow(/--template .*other: cannot be read/);
    expect(() => templateOf('absent.json')).toThrow(/--template absent.json: cannot be read/);
    const options = { prompt: 'x', template: path, allowTemplateMismatch: true };
    expect(promptOf(options)).toMatchObject({
      template: 'id: mine\nuser: "{content}"\n',
      allowTemplateMismatch: true,
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
