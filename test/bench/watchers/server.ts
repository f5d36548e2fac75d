/**
 * A server with an engine without a device, whose job takes its first steps at once and all others in a given time. Reports where it listens and the
 * job's name. Started by `watchers.ts`:
 *
 *     node test/bench/watchers/server.ts FAST_STEPS STEP_MILLISECONDS
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { DatasetFormat, LuthierClient } from '../../../clients/typescript/src/index.ts';
import { serverConfigSchema } from '../../../src/config/schema.ts';
import { createFakeEngine } from '../../../src/engine/fake.ts';
import { createLogger } from '../../../src/logging/logger.ts';
import { createServer } from '../../../src/server.ts';
import { temporaryFolder } from '../../e2e/support/server-process.ts';
import { followParent, report } from '../service/children.ts';

/** What the program reports, once. */
export interface ServerReport {
  readonly address: string;
  readonly job: string;
}

followParent();
const [fastSteps = 0, stepMilliseconds = 0] = process.argv.slice(2).map(Number);
const options = serverConfigSchema.parse({
  port: 0,
  dataDir: temporaryFolder(),
  threads: 1,
  models: { fake: '/models/fake' },
  metricFiles: false,
});
const engine = createFakeEngine({
  beforeStep: (step) => (step > fastSteps ? sleep(stepMilliseconds) : undefined),
});
const server = await createServer(options, { engine, logger: createLogger({ level: 'silent', format: 'json' }) });
const { address } = await server.start();
const client = new LuthierClient({ address });
const line = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}\n';
const { name: dataset } = await client.uploadDataset([line], { format: DatasetFormat.DATASET_FORMAT_MESSAGES });
const spec = { model: 'models/fake', dataset, perDeviceTrainBatchSize: 1, maxSteps: 1_000_000, saveStrategy: 'no' };
const { name } = await client.createTrainingJob({ spec });
report({ address, job: name } satisfies ServerReport);
