import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { DatabaseSync } from 'node:sqlite';
import { expect, onTestFinished, test } from 'vitest';
import { openDataFolder } from './data-folder.ts';
import { openDatabase } from './database.ts';
import { MIGRATIONS } from './migrations.ts';
import { createRequestLog } from './sqlite-request-log.ts';

function scratch(): string {
  const folder = mkdtempSync(join(tmpdir(), 'luthier-store-'));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

test('a data folder belongs to one server at a time', async () => {
  const path = join(scratch(), 'new', 'data');
  const folder = await openDataFolder(path);
  await expect(openDataFolder(path)).rejects.toThrow(
    `the data folder ${path} is used by another server (process ${process.pid})`,
  );
  folder.close();
  folder.close();
  (await openDataFolder(path)).close();
});

test('a data folder that cannot be made says why', async () => {
  const file = join(scratch(), 'file');
  writeFileSync(file, '');
  chmodSync(file, 0o400);
  await expect(openDataFolder(join(file, 'data'))).rejects.toThrow(
    /cannot be used: .*; name another one with --data-dir/,
  );
});

test('a data folder that is read-only is refused and left as it is', async () => {
  const path = join(scratch(), 'data');
  mkdirSync(path);
  chmodSync(dirname(path), 0o755);
  chmodSync(path, 0o555);
  const module = new URL('./data-folder.ts', import.meta.url).href;
  const script = `import(${JSON.stringify(module)})
    .then(({ openDataFolder }) => openDataFolder(${JSON.stringify(path)}))
    .then(() => console.log('opened'), ({ name, message }) => console.log(name, message));`;
  // Nothing is read-only for root.
  const other = process.getuid?.() === 0 ? { uid: 65_534, gid: 65_534 } : {};
  const output = execFileSync(process.execPath, ['-e', script], { ...other, encoding: 'utf8' });
  expect(output).toMatch(
    /^ServerStartError the data folder \S+ cannot be used: this process may not write there \(EACCES: .*\); name another one with --data-dir\n$/,
  );
  expect(readdirSync(path)).toEqual([]);
});

test('migrations run once each, in order; a step that fails leaves the version before it', () => {
  const file = join(scratch(), 'a.db');
  openDatabase(file, ['CREATE TABLE a (x)']).close();
  expect(() => openDatabase(file, ['CREATE TABLE a (x)', 'CREATE TABLE b (x); SELECT wrong'])).toThrow('wrong');
  const database = openDatabase(file, ['CREATE TABLE a (x)', 'CREATE TABLE b (x)']);
  expect(database.prepare('PRAGMA user_version').get()).toEqual({ user_version: 2 });
  expect(database.prepare('PRAGMA journal_mode').get()).toEqual({ journal_mode: 'wal' });
  expect(database.prepare('PRAGMA synchronous').get()).toEqual({ synchronous: 2 });
  database.close();
  expect(() => openDatabase(file, ['CREATE TABLE a (x)'])).toThrow('newer version');
});

test('a file that is no database is refused and left as it is', () => {
  const file = join(scratch(), 'a.db');
  writeFileSync(file, 'x'.repeat(2000));
  expect(() => openDatabase(file)).toThrow('cannot be opened');
  expect(() => new DatabaseSync(file).exec('SELECT 1 FROM a')).toThrow();
});

const bytes = (text: string) => new TextEncoder().encode(text);

test('a repeated request is answered from the log, also after a restart; a failed one runs again', async () => {
  const file = join(scratch(), 'a.db');
  let runs = 0;
  const action = async () => {
    runs += 1;
    if (runs === 1) throw new Error('first');
    return bytes(`run ${runs}`);
  };
  const first = openDatabase(file);
  const log = createRequestLog(first);
  await expect(log.once('id', 'Create', bytes('a'), action)).rejects.toThrow('first');
  expect(await log.once('id', 'Create', bytes('a'), action)).toEqual(bytes('run 2'));
  first.close();
  const second = openDatabase(file);
  expect(await createRequestLog(second).once('id', 'Create', bytes('a'), action)).toEqual(bytes('run 2'));
  expect(await createRequestLog(second).once('', 'Create', bytes('a'), action)).toEqual(bytes('run 3'));
  second.close();
});

test('a change and its answer are remembered together: an answer that is lost afterwards is repeated, not made again', async () => {
  const database = openDatabase(':memory:', [...MIGRATIONS, 'CREATE TABLE things (name TEXT PRIMARY KEY)']);
  const log = createRequestLog(database);
  const insert = (name: string) => () => database.prepare('INSERT INTO things VALUES (?)').run(name);
  const count = () => database.prepare('SELECT count(*) AS things FROM things').get()?.things;
  const lost = log.once('id', 'Create', bytes('a'), async (remember) => {
    remember(insert('a'), () => bytes('made'));
    throw new Error('the server died here');
  });
  await expect(lost).rejects.toThrow('the server died here');
  const again = () => log.once('id', 'Create', bytes('a'), () => Promise.reject(new Error('made again')));
  expect(await again()).toEqual(bytes('made'));
  expect(count()).toBe(1);

  const refused = log.once('other', 'Create', bytes('b'), async (remember) => {
    remember(insert('b'), () => {
      throw new Error('no answer');
    });
    return bytes('never');
  });
  await expect(refused).rejects.toThrow('no answer');
  expect(count()).toBe(1);
  expect(await log.once('other', 'Create', bytes('b'), async () => bytes('second'))).toEqual(bytes('second'));
  await log.once('', 'Create', bytes('c'), async (remember) => {
    remember(insert('c'), () => bytes(''));
    return bytes('');
  });
  expect(count()).toBe(2);
  database.close();
});

test('two calls at once with one id run once; an id is for one request of one method', async () => {
  const log = createRequestLog(openDatabase(':memory:'));
  let runs = 0;
  const action = async () => {
    runs += 1;
    await new Promise(setImmediate);
    return bytes('done');
  };
  const [one, two, other] = await Promise.allSettled([
    log.once('id', 'Create', bytes('a'), action),
    log.once('id', 'Create', bytes('a'), action),
    log.once('id', 'Create', bytes('b'), action),
  ]);
  expect([one.status, two.status, other.status]).toEqual(['fulfilled', 'fulfilled', 'rejected']);
  expect(runs).toBe(1);
  await expect(log.once('id', 'Delete', bytes('a'), action)).rejects.toMatchObject({ reason: 'REQUEST_ID_REUSED' });
});
