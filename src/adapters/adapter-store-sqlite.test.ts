import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { scriptedEngine } from '../../test/fixtures/scripted-engine.ts';
import type { AdapterInfo, AdapterMetadata, Engine } from '../engine/engine.ts';
import { EngineError } from '../engine/errors.ts';
import { LoadIn } from '../gen/luthier/v1/common.ts';
import { createModelRegistry } from '../models/create-model-registry.ts';
import { openDatabase } from '../store/database.ts';
import { MIGRATIONS } from '../store/migrations.ts';
import { ADAPTER_FOLDER_COLUMN, AdapterRows } from './adapter-rows.ts';
import { openAdapterStore } from './adapter-store-sqlite.ts';

const silent = { warn: () => undefined, info: () => undefined };
const INFO: AdapterInfo = {
  r: 4,
  loraAlpha: 8,
  useRslora: false,
  targetModules: ['q_proj'],
  parameterCount: 128,
  sha256: 'ab',
  metadata: null,
};
const ORIGIN: AdapterMetadata = {
  baseModelName: 'tiny',
  baseModelHash: 'c0ffee',
  templateId: 'tutorial',
  templateHash: 'h',
  template: '',
};

const SPEC = { id: 'x', baseModel: 'models/tiny', allowOtherBase: false, overwrite: false };

/** An engine whose adapters are what their config files say: `broken`, `other` (shapes of another base) or anything else. */
function adapterEngine() {
  const engine = scriptedEngine();
  const loads: string[] = [];
  let open = 0;
  const config = (folder: string): string => readFileSync(join(folder, 'adapter_config.json'), 'utf8');
  const withAdapters: Engine = {
    ...engine,
    readAdapter: async (folder) => {
      const text = config(folder);
      if (text === 'broken')
        throw new EngineError('ADAPTER_CORRUPT', `${join(folder, 'adapter_config.json')}: truncated`);
      return { ...INFO, metadata: text.startsWith('{') ? (JSON.parse(text) as AdapterMetadata) : null };
    },
    loadModel: async (path, storage) => ({
      ...(await engine.loadModel(path, storage)),
      loadAdapter: async (folder) => {
        loads.push(folder);
        if (config(folder) === 'other') throw new EngineError('ADAPTER_MISMATCH', 'expected [4, 8], found [4, 16]');
        open += 1;
        const close = (): void => {
          open -= 1;
        };
        return { info: INFO, close };
      },
    }),
  };
  return { engine: withAdapters, loads, open: () => open };
}

async function setUp(used = '', beforeChange: (root: string) => void = () => undefined) {
  const root = mkdtempSync(join(tmpdir(), 'luthier-adapters-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const folders = { models: join(root, 'models'), exports: join(root, 'exports'), runs: join(root, 'runs') };
  for (const folder of Object.values(folders)) mkdirSync(folder);
  const database = openDatabase(join(root, 'test.db'));
  onTestFinished(() => database.close());
  const { engine, loads, open } = adapterEngine();
  const registry = createModelRegistry({ engine, models: { tiny: '/m/tiny.gguf' }, roots: [], logger: silent });
  const options = {
    database,
    folder: join(root, 'adapters'),
    engine,
    models: registry,
    modelRoots: [folders.models],
    exportRoots: [folders.exports],
    inUse: async (name: string) => {
      beforeChange(root);
      return name === used;
    },
  };
  const store = await openAdapterStore(options);
  const write = (parent: string, name: string, config = 'plain'): string => {
    const folder = join(parent, name);
    mkdirSync(folder);
    writeFileSync(join(folder, 'adapter_config.json'), config);
    writeFileSync(join(folder, 'adapter_model.safetensors'), 'tensors');
    return folder;
  };
  const adopt = (id: string, config?: string, trainingJob = `trainingJobs/${id}`) =>
    store.adopt({
      folder: write(folders.runs, `run-${id}`, config),
      id,
      baseModel: 'models/tiny',
      template: { id: 'tutorial', version: '1', hash: 'h' },
      trainingJob,
      origin: ORIGIN,
    });
  const stored = () => readdirSync(options.folder).sort();
  /** Another server on a copy of everything. */
  const openCopy = async (copy: string) => {
    onTestFinished(() => rmSync(copy, { recursive: true, force: true }));
    const database = openDatabase(join(copy, 'test.db'));
    onTestFinished(() => database.close());
    const folder = join(copy, 'adapters');
    return {
      store: await openAdapterStore({ ...options, database, folder }),
      stored: () => readdirSync(folder).sort(),
    };
  };
  const reopen = () => openAdapterStore(options);
  return { root, ...folders, store, registry, loads, open, write, adopt, stored, reopen, openCopy };
}

describe('adoption', () => {
  it('takes the folder over; the adapter has three names', async () => {
    const { store, adopt, runs, stored, reopen } = await setUp();
    const adapter = await adopt('a');
    expect(adapter).toMatchObject({
      name: 'adapters/a',
      baseModel: 'models/tiny',
      templateVersion: '1',
      sizeBytes: 12,
    });
    expect(readdirSync(runs)).toEqual([]);
    expect(stored()).toEqual(['a']);
    const again = await reopen();
    for (const name of ['adapters/a', 'a', 'trainingJobs/a']) {
      expect(store.get(name)).toEqual(adapter);
      expect(again.get(name)).toEqual(adapter);
    }
    for (const name of ['adapters/b', 'b', 'trainingJobs/b', '../a']) {
      expect(() => store.get(name)).toThrow(expect.objectContaining({ reason: 'ADAPTER_NOT_FOUND' }));
    }
  });

  it('a name is taken once; a broken adapter is refused', async () => {
    const { adopt, runs, stored } = await setUp();
    await adopt('a');
    rmSync(join(runs, 'run-a'), { recursive: true, force: true });
    await expect(adopt('a')).rejects.toMatchObject({ reason: 'ADAPTER_EXISTS' });
    await expect(adopt('b', 'broken')).rejects.toMatchObject({ reason: 'ADAPTER_CORRUPT' });
    expect(stored()).toEqual(['a']);
  });

  it('what a crash left is gone after the next start', async () => {
    const { adopt, stored, write, store, reopen } = await setUp();
    const { folder } = await adopt('a');
    write(join(folder, '..'), '.writing-1');
    write(join(folder, '..'), 'unknown');
    await reopen();
    expect(stored()).toEqual(['a']);
    expect(store.get('a').folder).toBe(folder);
  });
});

it('an adapter of a database without folder names is where it was', async () => {
  const root = mkdtempSync(join(tmpdir(), 'luthier-adapters-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  const file = join(root, 'test.db');
  const before = openDatabase(file, MIGRATIONS.slice(0, MIGRATIONS.indexOf(ADAPTER_FOLDER_COLUMN)));
  const row = ['adapters/old', 'models/tiny', JSON.stringify(INFO), JSON.stringify(ORIGIN), '1', 12, '', 0];
  before.prepare('INSERT INTO adapters VALUES (?, ?, ?, ?, ?, ?, ?, ?)').run(...row);
  before.close();
  const database = openDatabase(file);
  onTestFinished(() => database.close());
  expect(new AdapterRows(database, '/adapters').find('old')).toMatchObject({ folder: '/adapters/old', sizeBytes: 12 });
});

describe('import', () => {
  it('copies the files, and says what could not be checked', async () => {
    const { store, models, write, stored, open } = await setUp();
    const path = write(models, 'x');
    const { adapter, warnings } = await store.import(path, SPEC);
    expect(adapter).toMatchObject({ name: 'adapters/x', trainingJob: '', baseModel: 'models/tiny' });
    expect(warnings).toHaveLength(2);
    expect([stored(), open()]).toEqual([['x'], 0]);
    expect(existsSync(path)).toBe(true);
  });

  it('finds the base by the hash that the adapter carries', async () => {
    const { store, models, write } = await setUp();
    const path = write(models, 'x', JSON.stringify(ORIGIN));
    const { adapter, warnings } = await store.import(path, { ...SPEC, id: '', baseModel: '' });
    expect(warnings).toEqual([]);
    expect(adapter).toMatchObject({ origin: ORIGIN, baseModel: expect.stringMatching(/^models/) });
    expect(adapter.name).toMatch(/^adapters\/[a-z0-9-]+$/);
  });

  it.each<[string, string, object]>([
    ['shapes of another base', 'other', { reason: 'ADAPTER_MISMATCH', message: expect.stringContaining('[4, 16]') }],
    ['hash of another base', JSON.stringify({ ...ORIGIN, baseModelHash: 'dead' }), { reason: 'ADAPTER_MISMATCH' }],
    ['a broken file', 'broken', { reason: 'ADAPTER_CORRUPT' }],
  ])('%s is refused and leaves nothing', async (_, config, error) => {
    const { store, models, registry, write, stored } = await setUp();
    const path = write(models, 'x', config);
    await expect(store.import(path, SPEC)).rejects.toMatchObject(error);
    expect(stored()).toEqual([]);
    expect((await registry.get('tiny')).users).toBe(0);
  });

  it('no base, no files, no way: each is said', async () => {
    const { store, models, runs, write, adopt } = await setUp();
    const path = write(models, 'x');
    const importing = ({ path: from = path, ...spec }: { path?: string; id?: string; baseModel?: string }) =>
      store.import(from, { ...SPEC, id: '', ...spec });
    await expect(importing({ baseModel: '' })).rejects.toMatchObject({ violations: [{ field: 'base_model' }] });
    await expect(importing({ baseModel: 'models/none' })).rejects.toMatchObject({ reason: 'MODEL_NOT_FOUND' });
    await expect(importing({ path: models })).rejects.toMatchObject({ reason: 'ADAPTER_NOT_FOUND' });
    await expect(importing({ path: runs })).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
    await adopt('a');
    await expect(importing({ id: 'a' })).rejects.toMatchObject({ reason: 'ADAPTER_EXISTS' });
  });

  it('another base is accepted where that is asked for, and is the base from then on', async () => {
    const { store, models, registry, write } = await setUp();
    const path = write(models, 'x', JSON.stringify({ ...ORIGIN, baseModelHash: 'dead' }));
    const refused = { reason: 'ADAPTER_MISMATCH', message: expect.stringMatching(/dead.*c0ffee/) };
    await expect(store.import(path, SPEC)).rejects.toMatchObject(refused);
    const { adapter, warnings } = await store.import(path, { ...SPEC, allowOtherBase: true });
    expect(warnings).toEqual([expect.stringMatching(/dead.*c0ffee.*accepted/)]);
    expect(adapter).toMatchObject({
      origin: { baseModelHash: 'c0ffee' },
      info: { metadata: { baseModelHash: 'dead' } },
    });
    const base = await registry.acquire('tiny');
    (await store.acquire('adapters/x', base)).release();
    base.release();
  });

  it('a name is given again where that is asked for and nothing uses it', async () => {
    const { store, models, registry, write, adopt, stored } = await setUp();
    await adopt('a');
    const path = write(models, 'x', JSON.stringify(ORIGIN));
    await expect(store.import(path, { ...SPEC, id: 'a' })).rejects.toMatchObject({ reason: 'ADAPTER_EXISTS' });
    const base = await registry.acquire('tiny');
    const lease = await store.acquire('adapters/a', base);
    const again = () => store.import(path, { ...SPEC, id: 'a', overwrite: true });
    await expect(again()).rejects.toMatchObject({ reason: 'ADAPTER_IN_USE' });
    expect(store.get('a').trainingJob).toBe('trainingJobs/a');
    lease.release();
    base.release();
    const broken = write(models, 'y', 'broken');
    await expect(store.import(broken, { ...SPEC, id: 'a', overwrite: true })).rejects.toMatchObject({
      reason: 'ADAPTER_CORRUPT',
    });
    expect(store.get('a').trainingJob).toBe('trainingJobs/a');
    const both = await Promise.all([again(), again()]);
    expect(both.map(({ adapter }) => adapter)).toContainEqual(store.get('a'));
    expect(store.get('a').trainingJob).toBe('');
    expect(stored()).toEqual([basename(store.get('a').folder)]);
    await store.delete('a');
    expect(stored()).toEqual([]);
  });

  it('a server that ends while a name is given again has one of the two afterwards, whole', async () => {
    const moments: string[] = [];
    const { root, store, models, write, adopt, openCopy } = await setUp('', (root) => {
      moments.push(`${root}-${moments.length}`);
      cpSync(root, moments.at(-1) ?? '', { recursive: true });
    });
    await adopt('a');
    const path = write(models, 'x', JSON.stringify(ORIGIN));
    const { adapter } = await store.import(path, { ...SPEC, id: 'a', overwrite: true });
    // As it was when the new folder was in and the row still the old one's.
    expect(moments).toHaveLength(1);
    const before = await openCopy(moments[0] ?? '');
    expect(before.store.get('a').trainingJob).toBe('trainingJobs/a');
    expect(readdirSync(before.store.get('a').folder)).toHaveLength(2);
    expect(before.stored()).toEqual(['a']);
    // As it would be with the new row and the old folder not deleted yet.
    write(join(root, 'adapters'), 'a');
    const after = await openCopy(root);
    expect(after.store.get('a')).toEqual(adapter);
    expect(after.stored()).toEqual([basename(adapter.folder)]);
  });

  it("what is wrong with the files is told by the client's own path", async () => {
    const { store, models, write } = await setUp();
    const path = write(models, 'x', 'broken');
    await expect(store.import(path, SPEC)).rejects.toMatchObject({
      message: `${path}: adapter_config.json: truncated`,
    });
  });

  it('a link inside the folder does not lead out of the roots', async () => {
    const { store, models, runs, write } = await setUp();
    const path = write(models, 'x');
    writeFileSync(join(runs, 'secret'), 'secret');
    rmSync(join(path, 'adapter_config.json'));
    symlinkSync(join(runs, 'secret'), join(path, 'adapter_config.json'));
    await expect(store.import(path, SPEC)).rejects.toMatchObject({
      reason: 'PATH_NOT_ALLOWED',
    });
  });
});

describe('export', () => {
  it('writes the two files where nothing or an empty folder is', async () => {
    const { store, adopt, exports } = await setUp();
    await adopt('a');
    mkdirSync(join(exports, 'empty'));
    for (const path of ['new', 'empty', 'deep/er']) {
      const written = await store.export('adapters/a', join(exports, path));
      expect(written.sizeBytes).toBe(12);
      expect(readdirSync(written.path).sort()).toEqual(['adapter_config.json', 'adapter_model.safetensors']);
    }
    expect(readdirSync(exports).sort()).toEqual(['deep', 'empty', 'new']);
  });

  it('never writes over anything', async () => {
    const { store, adopt, exports, runs } = await setUp();
    await adopt('a');
    mkdirSync(join(exports, 'full'));
    writeFileSync(join(exports, 'full', 'mine'), 'mine');
    writeFileSync(join(exports, 'file'), 'mine');
    for (const path of ['full', 'file']) {
      const exporting = store.export('a', join(exports, path));
      await expect(exporting).rejects.toMatchObject({ reason: 'EXPORT_TARGET_NOT_EMPTY' });
    }
    await expect(store.export('a', join(runs, 'x'))).rejects.toMatchObject({ reason: 'PATH_NOT_ALLOWED' });
    await expect(store.export('b', join(exports, 'b'))).rejects.toMatchObject({ reason: 'ADAPTER_NOT_FOUND' });
    expect(readdirSync(exports).sort()).toEqual(['file', 'full']);
    expect(readFileSync(join(exports, 'full', 'mine'), 'utf8')).toBe('mine');
  });
});

describe('in memory', () => {
  it('concurrent calls load once; who uses it keeps it from deletion', async () => {
    const { store, registry, adopt, loads, open, stored } = await setUp();
    await adopt('a');
    const base = await registry.acquire('tiny');
    const leases = await Promise.all([store.acquire('a', base), store.acquire('adapters/a', base)]);
    expect([loads.length, open()]).toEqual([1, 1]);
    leases[0]?.release();
    leases[0]?.release();
    await expect(store.delete('a')).rejects.toMatchObject({ reason: 'ADAPTER_IN_USE' });
    leases[1]?.release();
    (await store.acquire('a', base)).release();
    expect(loads).toHaveLength(1);
    await store.delete('trainingJobs/a');
    await expect.poll(open).toBe(0);
    expect(stored()).toEqual([]);
    await expect(store.acquire('a', base)).rejects.toMatchObject({ reason: 'ADAPTER_NOT_FOUND' });
  });

  it('few that nobody uses are kept', async () => {
    const { store, registry, adopt, open } = await setUp();
    const base = await registry.acquire('tiny');
    for (let index = 0; index < 12; index++) {
      await adopt(`a${index}`);
      (await store.acquire(`a${index}`, base)).release();
    }
    await expect.poll(open).toBe(8);
    store.close();
    await expect.poll(open).toBe(0);
  });

  it('is read again beside a base that was loaded again', async () => {
    const { store, registry, adopt, loads, open } = await setUp();
    await adopt('a');
    for (let round = 0; round < 2; round++) {
      const base = await registry.acquire('tiny');
      (await store.acquire('a', base)).release();
      base.release();
      await registry.unload('tiny');
    }
    expect(loads).toHaveLength(2);
    await expect.poll(open).toBe(1);
  });

  it('stands beside each form of the base, and whoever uses one keeps it from deletion', async () => {
    const { store, registry, adopt, loads, open } = await setUp();
    await adopt('a');
    const bases = [await registry.acquire('tiny'), await registry.acquire('tiny', LoadIn.LOAD_IN_4BIT)];
    const leases = [];
    for (const base of [...bases, ...bases]) leases.push(await store.acquire('a', base));
    expect([loads.length, open()]).toEqual([2, 2]);
    for (const lease of leases.slice(1)) lease.release();
    await expect(store.delete('a')).rejects.toMatchObject({ reason: 'ADAPTER_IN_USE' });
    leases[0]?.release();
    await store.delete('a');
    await expect.poll(open).toBe(0);
  });

  it('shapes of another base are refused, and the next call tries again', async () => {
    const { store, registry, adopt, loads } = await setUp();
    await adopt('a', 'other');
    const base = await registry.acquire('tiny');
    for (const attempt of [1, 2]) {
      await expect(store.acquire('a', base)).rejects.toMatchObject({ reason: 'ADAPTER_MISMATCH' });
      expect(loads).toHaveLength(attempt);
    }
  });

  it('an unfinished job keeps it from deletion', async () => {
    const { store, adopt } = await setUp('adapters/a');
    await adopt('a');
    await expect(store.delete('a')).rejects.toMatchObject({ reason: 'ADAPTER_IN_USE' });
    expect(store.list('', 10).map(({ name }) => name)).toEqual(['adapters/a']);
  });
});
