/** The preloaded library and the model of a disk, on a small program. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, onTestFinished, test, vi } from 'vitest';
import { type FullDisk, readCounts, writeControl } from './control.ts';
import { type Cut, Disk } from './disk.ts';
import { readJournal } from './journal.ts';
import { Random } from './random.ts';
import { type KillPoint, shimEnvironment } from './shim.ts';

// Programs are started, and machines may be busy.
vi.setConfig({ testTimeout: 120_000 });

interface Faults {
  readonly kill?: KillPoint;
  readonly full?: FullDisk;
}

/** Runs a program whose working folder is watched. */
function run(program: string, { kill, full }: Faults = {}) {
  const scratch = realpathSync(mkdtempSync(join(tmpdir(), 'luthier-shim-')));
  onTestFinished(() => rmSync(scratch, { recursive: true, force: true }));
  const root = join(scratch, 'disk');
  mkdirSync(root);
  const journal = join(scratch, 'journal');
  const control = join(scratch, 'control');
  writeControl(control, full);
  const disk = Disk.of(root);
  const env = { ...process.env, ...shimEnvironment({ root, journal, control, kill }) };
  const code = `const fs = require('node:fs'); const { DatabaseSync } = require('node:sqlite'); ${program}`;
  const child = spawnSync(process.execPath, ['-e', code], { cwd: root, env, encoding: 'utf8' });
  const operations = existsSync(journal) ? readJournal(journal) : [];
  return { ...child, root, operations, disk, counts: readCounts(control), scratch };
}

/** What a disk holds after a cut behind the last operation, by name. */
function afterCut({ disk, operations, scratch }: ReturnType<typeof run>, how: Cut, seed = 0): Map<string, string> {
  for (const operation of operations) disk.apply(operation);
  const target = mkdtempSync(join(scratch, 'cut-'));
  disk.cut(target, how, new Random(seed));
  const names = readdirSync(target, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(names.map(({ name, parentPath }) => [name, readFileSync(join(parentPath, name), 'utf8')]));
}

const SYNC_FOLDER = `const folder = fs.openSync('.', 'r'); fs.fsyncSync(folder);`;

test('records what was done, in order, and nothing elsewhere', () => {
  const program = `fs.mkdirSync('a'); fs.writeFileSync('a/b', 'text'); fs.renameSync('a/b', 'c'); fs.rmSync('c');
    fs.writeFileSync('../elsewhere', 'x'); fs.rmSync('a', { recursive: true });`;
  const { operations, stderr } = run(program);
  expect(stderr).toBe('');
  expect(operations.map(({ kind, path, other }) => [kind, path, other].join(' ').trim())).toEqual([
    'mkdir a',
    'create a/b',
    'write a/b',
    'rename a/b c',
    'unlink c',
    'rmdir a',
  ]);
  expect(operations[2]?.data.toString()).toBe('text');
});

test('sees appended, copied and cut files as the disk has them', () => {
  const result = run(`fs.writeFileSync('a', 'one '); fs.appendFileSync('a', 'two'); fs.copyFileSync('a', 'b');
    fs.truncateSync('a', 3); fs.appendFileSync('b', Buffer.alloc(70000, 'x'));
    for (const name of ['a', 'b']) { const file = fs.openSync(name, 'r+'); fs.fsyncSync(file); } ${SYNC_FOLDER}`);
  const files = afterCut(result, 'nothing');
  expect([...files.keys()]).toEqual(['a', 'b']);
  for (const [name, content] of files) expect(content).toBe(readFileSync(join(result.root, name), 'utf8'));
});

test('loses what was not synced: contents without a sync of the file, names without one of the folder', () => {
  const writes = `fs.writeFileSync('a', 'kept'); let file = fs.openSync('a', 'r+'); fs.fsyncSync(file);`;
  expect([...afterCut(run(writes), 'nothing')]).toEqual([]);
  const named = `${writes} ${SYNC_FOLDER} fs.writeSync(file, 'LOST', 0); fs.renameSync('a', 'b');`;
  expect([...afterCut(run(named), 'nothing')]).toEqual([['a', 'kept']]);
  expect([...afterCut(run(`fs.writeFileSync('a', 'lost'); ${SYNC_FOLDER}`), 'nothing')]).toEqual([['a', '']]);
});

test('keeps a part of what was not synced, sector by sector; a seed repeats it', () => {
  const result = run(`const file = fs.openSync('a', 'w'); fs.fsyncSync(file); ${SYNC_FOLDER}
    for (let part = 0; part < 20; part++) fs.writeSync(file, Buffer.alloc(512, 65 + part));`);
  const seen = new Set<string>();
  for (let seed = 0; seed < 12; seed++) {
    const content =
      [...afterCut({ ...result, operations: seed === 0 ? result.operations : [] }, 'any', seed).values()][0] ?? '';
    const letters = (content.match(/.{1,512}/gs) ?? []).map((sector) => new Set(sector));
    expect(letters.every((set) => set.size === 1)).toBe(true);
    seen.add(letters.map((set) => [...set][0]).join(''));
  }
  expect(seen.size).toBeGreaterThan(8);
  expect(new Random('s', 1).next()).toBe(new Random('s', 1).next());
});

test('kills at the named operation: before it, after it, in the middle of a write', () => {
  const program = `fs.writeFileSync('first', 'x'); fs.writeFileSync('file', 'abcdef'); fs.renameSync('file', 'done');`;
  const at = (operation: KillPoint['operation'], glob: string, when: KillPoint['when'], count = 1) => {
    const { root, signal } = run(program, { kill: { operation, glob, count, when } });
    expect(signal).toBe('SIGKILL');
    return Object.fromEntries(readdirSync(root).map((name) => [name, readFileSync(join(root, name), 'utf8')]));
  };
  expect(at('rename', 'd*', 'before')).toEqual({ first: 'x', file: 'abcdef' });
  expect(at('rename', 'd*', 'after')).toEqual({ first: 'x', done: 'abcdef' });
  expect(at('write', 'file', 'half')).toEqual({ first: 'x', file: 'abc' });
  expect(at('any', '*', 'before', 3)).toEqual({ first: 'x' });
});

test('fails with ENOSPC from one write to another, and at the end of the room', () => {
  const program = `for (const name of ['a', 'b', 'c']) try { fs.writeFileSync(name, name.repeat(10)); console.log(name); }
    catch (error) { console.log(error.code); }`;
  const some = run(program, { full: { from: 3, until: 4 } });
  expect(some.stdout).toBe('a\nENOSPC\nc\n');
  expect(some.counts).toMatchObject({ allocations: 5, refused: 1 });
  const room = run(program, { full: { bytes: 14 } });
  expect(room.stdout).toBe('a\nENOSPC\nENOSPC\n');
  expect(readFileSync(join(room.root, 'b'), 'utf8')).toBe('bbbb');
});

test.each(['nothing', 'any', 'ordered'] as const)('SQLite keeps what it committed after a cut that keeps %s', (how) => {
  const result = run(`const database = new DatabaseSync('a.db');
    database.exec('PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; CREATE TABLE rows (x)');
    for (let row = 0; row < 400; row++) database.prepare('INSERT INTO rows VALUES (?)').run('x'.repeat(3000));
    console.log('committed'); process.kill(process.pid, 'SIGKILL')`);
  expect(result.stdout).toBe('committed\n');
  for (const operation of result.operations) result.disk.apply(operation);
  for (let seed = 0; seed < 5; seed++) {
    const target = mkdtempSync(join(result.scratch, 'cut-'));
    result.disk.cut(target, how, new Random(seed));
    const read = `const database = new DatabaseSync('a.db', {});
      console.log(database.prepare('SELECT count(*) AS n FROM rows').get().n, database.prepare('PRAGMA integrity_check').get());`;
    const code = `const { DatabaseSync } = require('node:sqlite'); ${read}`;
    const { stdout } = spawnSync(process.execPath, ['-e', code], { cwd: target, encoding: 'utf8' });
    expect(stdout).toContain("400 [Object: null prototype] { integrity_check: 'ok' }");
  }
});
