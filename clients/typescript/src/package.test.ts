import { execFileSync, spawnSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';

const PACKAGE = dirname(dirname(fileURLToPath(import.meta.url)));
const MODULES = join(PACKAGE, '..', '..', 'node_modules');

let work = '';
let app = '';

beforeAll(() => {
  work = mkdtempSync(join(tmpdir(), 'luthier-pack-'));
  // Built from a copy, so that the test neither needs nor leaves a dist folder.
  const source = join(work, 'clients', 'typescript');
  cpSync(PACKAGE, source, { recursive: true, filter: (path) => !path.endsWith('dist') });
  cpSync(join(PACKAGE, '..', '..', 'tsconfig.json'), join(work, 'tsconfig.json'));
  symlinkSync(MODULES, join(work, 'node_modules'));
  execFileSync(join(MODULES, '.bin', 'tsc'), ['-p', 'tsconfig.build.json'], { cwd: source });
  const packed = execFileSync('npm', ['pack', '--json', '--ignore-scripts'], {
    cwd: source,
    encoding: 'utf8',
    stdio: 'pipe',
  });
  const [{ filename }] = JSON.parse(packed);
  app = join(work, 'app');
  const installed = join(app, 'node_modules', '@luthier', 'client');
  mkdirSync(installed, { recursive: true });
  execFileSync('tar', ['-xzf', join(source, filename), '--strip-components', '1', '-C', installed]);
  for (const name of Object.keys(JSON.parse(readFileSync(join(installed, 'package.json'), 'utf8')).dependencies)) {
    mkdirSync(dirname(join(app, 'node_modules', name)), { recursive: true });
    symlinkSync(join(MODULES, name), join(app, 'node_modules', name));
  }
}, 60_000);

afterAll(() => rmSync(work, { recursive: true, force: true }));

test('the packed package can be imported with nothing but its dependencies', () => {
  writeFileSync(
    join(app, 'main.mjs'),
    `import { JobState, LuthierClient, LuthierError, TrainingEvent } from '@luthier/client';
     const client = new LuthierClient({ address: '127.0.0.1:1', retry: { maxAttempts: 0 } });
     const error = await client.getServerInfo({ timeoutMs: 2000 }).catch((caught) => caught);
     client.close();
     const event = TrainingEvent.toJSON(TrainingEvent.create({ sequence: 3 }));
     console.log(JSON.stringify([error instanceof LuthierError, error.status, event, JobState.JOB_STATE_QUEUED]));`,
  );
  const output = execFileSync(process.execPath, ['main.mjs'], { cwd: app, encoding: 'utf8' });
  expect(JSON.parse(output)).toEqual([true, 'UNAVAILABLE', { sequence: 3, job: '' }, 1]);
});

test('its types are complete for a strict program', () => {
  writeFileSync(
    join(app, 'main.ts'),
    `import { LuthierClient, type TrainingStep } from '@luthier/client';
     export async function losses(client: LuthierClient): Promise<TrainingStep[]> {
       const steps: TrainingStep[] = [];
       for await (const { event } of client.train({ model: 'models/m', lora: { r: 4 } })) {
         if (event?.$case === 'step') steps.push(event.value);
       }
       return steps;
     }`,
  );
  const compilerOptions = {
    noEmit: true,
    strict: true,
    module: 'nodenext',
    target: 'es2024',
    lib: ['es2024', 'esnext.disposable'],
    types: ['node'],
    typeRoots: [join(MODULES, '@types')],
    skipLibCheck: true,
  };
  writeFileSync(join(app, 'package.json'), JSON.stringify({ type: 'module' }));
  writeFileSync(join(app, 'tsconfig.json'), JSON.stringify({ compilerOptions, files: ['main.ts'] }));
  const tsc = spawnSync(join(MODULES, '.bin', 'tsc'), [], { cwd: app, encoding: 'utf8' });
  expect(tsc.stdout).toBe('');
  expect(tsc.status).toBe(0);
});
