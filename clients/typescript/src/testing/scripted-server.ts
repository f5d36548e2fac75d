/** A gRPC server whose answers a test writes. */
import { randomInt } from 'node:crypto';
import {
  Metadata,
  Server,
  ServerCredentials,
  type ServiceDefinition,
  type ServiceError,
  type UntypedServiceImplementation,
} from '@grpc/grpc-js';
import { BadRequest, ErrorInfo, ResourceInfo, RetryInfo } from '../gen/google/rpc/error_details.ts';
import { Status as RpcStatus } from '../gen/google/rpc/status.ts';
import { JobState, TrainingEvent } from '../gen/luthier/v1/training_service.ts';
import { Status } from '../status.ts';

export interface ScriptedServer extends AsyncDisposable {
  readonly address: string;
}

/** Serves the given methods on a free loopback port. */
export async function scriptedServer(
  service: ServiceDefinition,
  methods: UntypedServiceImplementation,
  port = 0,
): Promise<ScriptedServer> {
  const server = new Server();
  server.addService(service, methods);
  const bound = await new Promise<number>((resolve, reject) => {
    server.bindAsync(`127.0.0.1:${port}`, ServerCredentials.createInsecure(), (error, number) =>
      error ? reject(error) : resolve(number),
    );
  });
  return { address: `127.0.0.1:${bound}`, [Symbol.asyncDispose]: async () => server.forceShutdown() };
}

/** An error as grpc-js servers send it. */
export function serviceError(code: number, details: string, status?: RpcStatus): ServiceError {
  const metadata = new Metadata();
  if (status !== undefined) metadata.set('grpc-status-details-bin', Buffer.from(RpcStatus.encode(status).finish()));
  return Object.assign(new Error(details), { code, details, metadata });
}

/** INVALID_ARGUMENT with one detail of each kind that the client reads. */
export function detailedError(): ServiceError {
  const any = (name: string, value: Uint8Array) => ({
    typeUrl: `type.googleapis.com/google.rpc.${name}`,
    value: Buffer.from(value),
  });
  const message = 'data set datasets/d has 1 problem';
  const violation = { field: 'line[7].messages[1].content', description: 'expected text', reason: 'EMPTY_CONTENT' };
  return serviceError(Status.INVALID_ARGUMENT, message, {
    code: Status.INVALID_ARGUMENT,
    message,
    details: [
      any(
        'ErrorInfo',
        ErrorInfo.encode({ reason: 'DATASET_INVALID', domain: 'luthier.v1', metadata: { lines: '9' } }).finish(),
      ),
      any('BadRequest', BadRequest.encode({ fieldViolations: [violation] }).finish()),
      any(
        'ResourceInfo',
        ResourceInfo.encode(ResourceInfo.create({ resourceType: 'dataset', resourceName: 'd' })).finish(),
      ),
      any('RetryInfo', RetryInfo.encode({ retryDelay: { seconds: 1, nanos: 500_000_000 } }).finish()),
      { typeUrl: 'type.googleapis.com/example.Unknown', value: Buffer.from([1, 2, 3]) },
    ],
  });
}

/** The events 1…count of a job that ends well. */
export function eventsOf(job: string, count: number): TrainingEvent[] {
  return Array.from({ length: count }, (_, index) =>
    TrainingEvent.create({
      sequence: index + 1,
      job,
      event:
        index + 1 === count
          ? { $case: 'stateChange', value: { from: JobState.JOB_STATE_RUNNING, to: JobState.JOB_STATE_SUCCEEDED } }
          : { $case: 'step', value: { globalStep: index + 1, loss: 1 / (index + 1) } },
    }),
  );
}

/** A whole number in [low, high]. */
export const between = (low: number, high: number): number => randomInt(low, high + 1);
