/** The client: one method for every RPC of the contract that servers answer. */

import { createReadStream } from 'node:fs';
import { type ChannelCredentials, Client, type ClientOptions, credentials } from '@grpc/grpc-js';
import { adapterFiles, adapterMessages, receiveAdapter } from './adapter-files.ts';
import { type AttachOptions, attach } from './attach.ts';
import { Backoff, type RetryOptions } from './backoff.ts';
import { bidiStream, type CallOptions, clientStream, type Method, serverStream, unary } from './call.ts';
import { LuthierError } from './error.ts';
import * as adapters from './gen/luthier/v1/adapter_service.ts';
import { type DatasetColumns, type DatasetContainer, type DatasetFormat, LoadIn } from './gen/luthier/v1/common.ts';
import * as datasets from './gen/luthier/v1/dataset_service.ts';
import * as generation from './gen/luthier/v1/generation_service.ts';
import * as models from './gen/luthier/v1/model_service.ts';
import * as tokenizers from './gen/luthier/v1/tokenizer_service.ts';
import * as training from './gen/luthier/v1/training_service.ts';
import { Status } from './status.ts';
import { checkMessages, fileSha256, type UploadSource, uploadMessages } from './upload.ts';

type DeepPartial<T> = training.DeepPartial<T>;

export interface LuthierClientOptions {
  /** `host:port`. */
  readonly address: string;
  /** Default: no encryption. */
  readonly credentials?: ChannelCredentials;
  /** Deadline in milliseconds of calls with one answer that name none; default: none. */
  readonly timeoutMs?: number;
  /** Text metadata of every call, by lower-case key. */
  readonly metadata?: Readonly<Record<string, string>>;
  /** How calls that found no server are repeated. */
  readonly retry?: RetryOptions;
  /** Options of the grpc-js channel. */
  readonly channel?: ClientOptions;
}

/** Options of a call that starts a job. */
export interface TrainOptions extends AttachOptions {
  /** Default: a new UUID. Repeating a request with the same one gives the same job. */
  readonly requestId?: string;
}

/** What is told about an upload. */
export interface UploadOptions extends CallOptions {
  /** Absent: chosen by the server. */
  readonly datasetId?: string | undefined;
  /** Absent: detected from the first example. */
  readonly format?: DatasetFormat | undefined;
  /** Absent: detected from the first bytes. */
  readonly container?: DatasetContainer | undefined;
  /** Absent: as the file has them. */
  readonly columns?: DatasetColumns | undefined;
  /** SHA-256 of the whole, hex; the server compares. `uploadDatasetFile` computes it. */
  readonly sha256?: string | undefined;
  readonly requestId?: string | undefined;
}

/** What is told about an adapter's upload. */
export interface UploadAdapterOptions extends CallOptions {
  /** Absent: chosen by the server. */
  readonly adapterId?: string | undefined;
  /** Absent: the registered model whose content hash the adapter carries. */
  readonly baseModel?: string | undefined;
  /** Accept one that was trained on a base with another content hash. */
  readonly allowOtherBase?: boolean | undefined;
  /** Take the place of an adapter of this name that nothing uses. */
  readonly overwrite?: boolean | undefined;
  readonly requestId?: string | undefined;
}

/** How to write a downloaded adapter. */
export interface DownloadOptions extends CallOptions {
  /** Replace the adapter's files where the folder has them. */
  readonly overwrite?: boolean | undefined;
}

/** How to load a model. */
export interface LoadOptions extends CallOptions {
  /** Absent: as stored. */
  readonly loadIn?: LoadIn | undefined;
}

/** The types of one unary method. */
interface Messages<Request> {
  create(base?: DeepPartial<Request>): Request;
}

/** The largest message received: previews and scores of long examples pass gRPC's default of 4 MiB. */
const MAX_RECEIVE_BYTES = 64 * 1024 * 1024;

/** The resource inside a response; servers never leave it out. */
function required<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new LuthierError(`the response holds no ${what}`, { code: Status.INTERNAL });
  return value;
}

/** A connection to a server. Methods throw LuthierError. Close it, or declare it with `await using`. */
export class LuthierClient {
  readonly #client: Client;
  readonly #options: LuthierClientOptions;
  readonly #closing = new AbortController();

  constructor(options: LuthierClientOptions) {
    this.#options = options;
    this.#client = new Client(options.address, options.credentials ?? credentials.createInsecure(), {
      'grpc.initial_reconnect_backoff_ms': 100,
      'grpc.max_reconnect_backoff_ms': 5000,
      'grpc.max_receive_message_length': MAX_RECEIVE_BYTES,
      ...options.channel,
    });
  }

  /** Ends the connection; calls under way fail with CANCELLED. */
  close(): void {
    this.#closing.abort();
    this.#client.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  // Training.

  /**
   * Creates a job and yields its events until it ends; a lost stream is opened again after the last event that arrived. Leaving
   * the loop leaves the job running: `watchTrainingJob` comes back to it, `cancelTrainingJob` ends it.
   */
  train(
    spec: DeepPartial<training.TrainingSpec>,
    options: TrainOptions = {},
  ): AsyncGenerator<training.TrainingEvent, void, undefined> {
    const requestId = options.requestId ?? crypto.randomUUID();
    const target = { $case: 'spec' as const, value: training.TrainingSpec.create(spec) };
    const { afterSequence = 0 } = options;
    const request = training.TrainRequest.create({ target, requestId, afterSequence });
    // The very same request until the job has a name: should the answer to the first be lost, the second finds the job by its
    // request_id.
    const open = (
      after: number,
      job: string,
    ): AsyncIterable<{ readonly event?: training.TrainingEvent | undefined }> =>
      job === ''
        ? this.#stream(training.TrainingServiceService.train, request, options)
        : this.#watch(job, after, options);
    return attach(open, { retry: this.#options.retry, ...options, signal: this.#signal(options) });
  }

  /** Yields a job's events after `options.afterSequence`, until it ends; re-attaches as `train` does. */
  watchTrainingJob(name: string, options: AttachOptions = {}): AsyncGenerator<training.TrainingEvent, void, undefined> {
    const open = (after: number) => this.#watch(name, after, options);
    return attach(open, { retry: this.#options.retry, ...options, signal: this.#signal(options) });
  }

  async createTrainingJob(
    request: DeepPartial<training.CreateTrainingJobRequest>,
    options: CallOptions = {},
  ): Promise<training.TrainingJob> {
    const method = training.TrainingServiceService.createTrainingJob;
    const { job } = await this.#change(method, training.CreateTrainingJobRequest, request, options);
    return required(job, 'job');
  }

  /** What a job would be and need; a job that does not fit is an answer with suggestions. */
  estimateTrainingJob(
    spec: DeepPartial<training.TrainingSpec>,
    options: CallOptions = {},
  ): Promise<training.EstimateTrainingJobResponse> {
    const method = training.TrainingServiceService.estimateTrainingJob;
    return this.#read(method, training.EstimateTrainingJobRequest, { spec }, options);
  }

  async getTrainingJob(name: string, options: CallOptions = {}): Promise<training.TrainingJob> {
    const method = training.TrainingServiceService.getTrainingJob;
    const { job } = await this.#read(method, training.GetTrainingJobRequest, { name }, options);
    return required(job, 'job');
  }

  /** One page, newest job first. */
  listTrainingJobs(
    request: DeepPartial<training.ListTrainingJobsRequest> = {},
    options: CallOptions = {},
  ): Promise<training.ListTrainingJobsResponse> {
    const method = training.TrainingServiceService.listTrainingJobs;
    return this.#read(method, training.ListTrainingJobsRequest, request, options);
  }

  /** Takes effect within one micro-step; an ended job is left as it is. */
  async cancelTrainingJob(name: string, options: CallOptions = {}): Promise<training.TrainingJob> {
    const method = training.TrainingServiceService.cancelTrainingJob;
    const { job } = await this.#change(method, training.CancelTrainingJobRequest, { name }, options);
    return required(job, 'job');
  }

  /** Stops a job so that it can go on: a running one within one micro-step, once its checkpoint is on the disk. */
  async pauseTrainingJob(name: string, options: CallOptions = {}): Promise<training.TrainingJob> {
    const method = training.TrainingServiceService.pauseTrainingJob;
    const { job } = await this.#change(method, training.PauseTrainingJobRequest, { name }, options);
    return required(job, 'job');
  }

  /** Puts a paused job, or a failed one that has a checkpoint, back into the queue, to go on from its newest checkpoint. */
  async resumeTrainingJob(name: string, options: CallOptions = {}): Promise<training.TrainingJob> {
    const method = training.TrainingServiceService.resumeTrainingJob;
    const { job } = await this.#change(method, training.ResumeTrainingJobRequest, { name }, options);
    return required(job, 'job');
  }

  /** Forgets a job that has ended, with its events; its adapter stays. */
  async deleteTrainingJob(name: string, options: CallOptions = {}): Promise<void> {
    const method = training.TrainingServiceService.deleteTrainingJob;
    await this.#change(method, training.DeleteTrainingJobRequest, { name }, options);
  }

  // Generation.

  /** Yields `started`, then `delta`s, then `finished`. Leaving the loop stops the computation. */
  generate(
    request: DeepPartial<generation.GenerateRequest>,
    options: CallOptions = {},
  ): AsyncGenerator<generation.GenerateResponse, void, undefined> {
    const method = generation.GenerationServiceService.generate;
    return this.#stream(method, generation.GenerateRequest.create(request), options);
  }

  scoreTokens(
    request: DeepPartial<generation.ScoreTokensRequest>,
    options: CallOptions = {},
  ): Promise<generation.ScoreTokensResponse> {
    const method = generation.GenerationServiceService.scoreTokens;
    return this.#read(method, generation.ScoreTokensRequest, request, options);
  }

  // Data sets.

  /** Stores a file from memory or any iterable, which is read only as fast as the server takes it. Not repeated by itself. */
  async uploadDataset(source: UploadSource, options: UploadOptions = {}): Promise<datasets.Dataset> {
    const { datasetId, format, container, columns, sha256, requestId } = options;
    const header = { datasetId, format, container, columns, sha256, requestId: requestId ?? crypto.randomUUID() };
    const method = datasets.DatasetServiceService.uploadDataset;
    const messages = uploadMessages(header as DeepPartial<datasets.UploadDatasetHeader>, source);
    const { dataset } = await clientStream(this.#client, method, messages, this.#callOptions(options));
    return required(dataset, 'dataset');
  }

  /** Stores a file, with its checksum; repeated where the server could not take it. */
  async uploadDatasetFile(path: string, options: UploadOptions = {}): Promise<datasets.Dataset> {
    const sha256 = options.sha256 ?? (await fileSha256(path));
    const requestId = options.requestId ?? crypto.randomUUID();
    return this.#repeat(options, () => this.uploadDataset(createReadStream(path), { ...options, sha256, requestId }));
  }

  async validateDataset(
    request: DeepPartial<datasets.ValidateDatasetRequest>,
    options: CallOptions = {},
  ): Promise<datasets.DatasetReport> {
    const method = datasets.DatasetServiceService.validateDataset;
    const { report } = await this.#read(method, datasets.ValidateDatasetRequest, request, options);
    return required(report, 'report');
  }

  /**
   * Yields progress, then the report, of a stored data set or of a file that is sent and not stored. Leaving the loop ends the work.
   * @param source The file; absent where `header.validation.dataset` names a stored one.
   */
  checkDataset(
    header: DeepPartial<datasets.CheckDatasetHeader>,
    source: UploadSource = [],
    options: CallOptions = {},
  ): AsyncGenerator<datasets.CheckDatasetResponse, void, undefined> {
    const method = datasets.DatasetServiceService.checkDataset;
    return bidiStream(this.#client, method, checkMessages(header, source), this.#callOptions(options));
  }

  previewExamples(
    request: DeepPartial<datasets.PreviewExamplesRequest>,
    options: CallOptions = {},
  ): Promise<datasets.PreviewExamplesResponse> {
    const method = datasets.DatasetServiceService.previewExamples;
    return this.#read(method, datasets.PreviewExamplesRequest, request, options);
  }

  async getDataset(name: string, options: CallOptions = {}): Promise<datasets.Dataset> {
    const method = datasets.DatasetServiceService.getDataset;
    const { dataset } = await this.#read(method, datasets.GetDatasetRequest, { name }, options);
    return required(dataset, 'dataset');
  }

  /** One page. */
  listDatasets(
    request: DeepPartial<datasets.ListDatasetsRequest> = {},
    options: CallOptions = {},
  ): Promise<datasets.ListDatasetsResponse> {
    return this.#read(datasets.DatasetServiceService.listDatasets, datasets.ListDatasetsRequest, request, options);
  }

  async deleteDataset(name: string, options: CallOptions = {}): Promise<void> {
    const method = datasets.DatasetServiceService.deleteDataset;
    await this.#change(method, datasets.DeleteDatasetRequest, { name }, options);
  }

  // Models.

  /** A registered model, or a path under one of the server's model roots, which registers it. */
  async getModel(name: string, options: CallOptions = {}): Promise<models.Model> {
    const { model } = await this.#read(models.ModelServiceService.getModel, models.GetModelRequest, { name }, options);
    return required(model, 'model');
  }

  /** One page. */
  listModels(
    request: DeepPartial<models.ListModelsRequest> = {},
    options: CallOptions = {},
  ): Promise<models.ListModelsResponse> {
    return this.#read(models.ModelServiceService.listModels, models.ListModelsRequest, request, options);
  }

  /** Remembers a model by a path on the server's machine, also when the server starts again; nothing is copied. */
  async importModel(request: DeepPartial<models.ImportModelRequest>, options: CallOptions = {}): Promise<models.Model> {
    const method = models.ModelServiceService.importModel;
    const { model } = await this.#change(method, models.ImportModelRequest, request, options);
    return required(model, 'model');
  }

  /** Forgets an import; its files stay. */
  deleteModel(name: string, options: CallOptions = {}): Promise<models.DeleteModelResponse> {
    return this.#change(models.ModelServiceService.deleteModel, models.DeleteModelRequest, { name }, options);
  }

  /** Brings a model into memory, its weights as stored or as `loadIn` says. */
  async loadModel(name: string, options: LoadOptions = {}): Promise<models.Model> {
    const method = models.ModelServiceService.loadModel;
    const { loadIn = LoadIn.LOAD_IN_UNSPECIFIED, ...call } = options;
    const { model } = await this.#change(method, models.LoadModelRequest, { name, loadIn }, call);
    return required(model, 'model');
  }

  /** Frees a model's memory. */
  async unloadModel(name: string, options: CallOptions = {}): Promise<models.Model> {
    const method = models.ModelServiceService.unloadModel;
    const { model } = await this.#change(method, models.UnloadModelRequest, { name }, options);
    return required(model, 'model');
  }

  /**
   * Writes a model with its linear layers quantized into a folder on the server's machine. Yields `progress`, then `finished`. Leaving the loop
   * ends the work, and leaves nothing behind.
   */
  quantizeModel(
    request: DeepPartial<models.QuantizeModelRequest>,
    options: CallOptions = {},
  ): AsyncGenerator<models.QuantizeModelResponse, void, undefined> {
    const method = models.ModelServiceService.quantizeModel;
    return this.#stream(method, models.QuantizeModelRequest.create(request), options);
  }

  getServerInfo(options: CallOptions = {}): Promise<models.GetServerInfoResponse> {
    return this.#read(models.ModelServiceService.getServerInfo, models.GetServerInfoRequest, {}, options);
  }

  // Adapters.

  async getAdapter(name: string, options: CallOptions = {}): Promise<adapters.Adapter> {
    const method = adapters.AdapterServiceService.getAdapter;
    const { adapter } = await this.#read(method, adapters.GetAdapterRequest, { name }, options);
    return required(adapter, 'adapter');
  }

  /** One page. */
  listAdapters(
    request: DeepPartial<adapters.ListAdaptersRequest> = {},
    options: CallOptions = {},
  ): Promise<adapters.ListAdaptersResponse> {
    return this.#read(adapters.AdapterServiceService.listAdapters, adapters.ListAdaptersRequest, request, options);
  }

  async deleteAdapter(name: string, options: CallOptions = {}): Promise<void> {
    const method = adapters.AdapterServiceService.deleteAdapter;
    await this.#change(method, adapters.DeleteAdapterRequest, { name }, options);
  }

  /** Copies a PEFT folder that the server can read into its store. */
  importAdapter(
    request: DeepPartial<adapters.ImportAdapterRequest>,
    options: CallOptions = {},
  ): Promise<adapters.ImportAdapterResponse> {
    const method = adapters.AdapterServiceService.importAdapter;
    return this.#change(method, adapters.ImportAdapterRequest, request, options);
  }

  /** Writes a PEFT folder on the server's machine. */
  exportAdapter(
    request: DeepPartial<adapters.ExportAdapterRequest>,
    options: CallOptions = {},
  ): Promise<adapters.ExportAdapterResponse> {
    const method = adapters.AdapterServiceService.exportAdapter;
    return this.#change(method, adapters.ExportAdapterRequest, request, options);
  }

  /** Writes base and adapter as one model on the server's machine. */
  mergeAdapter(
    request: DeepPartial<adapters.MergeAdapterRequest>,
    options: CallOptions = {},
  ): Promise<adapters.MergeAdapterResponse> {
    const method = adapters.AdapterServiceService.mergeAdapter;
    return this.#change(method, adapters.MergeAdapterRequest, request, options);
  }

  /** Writes an adapter's files into a folder on this machine: whole and with the right hashes, or not at all. */
  downloadAdapter(
    name: string,
    folder: string,
    options: DownloadOptions = {},
  ): Promise<adapters.DownloadAdapterHeader> {
    const method = adapters.AdapterServiceService.downloadAdapter;
    const request = adapters.DownloadAdapterRequest.create({ name });
    return this.#repeat(options, () => receiveAdapter(this.#stream(method, request, options), folder, options));
  }

  /** Stores an adapter from a PEFT folder on this machine, with its checksums; repeated where the server could not take it. */
  async uploadAdapter(folder: string, options: UploadAdapterOptions = {}): Promise<adapters.UploadAdapterResponse> {
    const { adapterId, baseModel, allowOtherBase, overwrite, requestId } = options;
    const header = adapters.UploadAdapterHeader.create({
      ...(adapterId === undefined ? {} : { adapterId }),
      ...(baseModel === undefined ? {} : { baseModel }),
      allowOtherBase: allowOtherBase ?? false,
      overwrite: overwrite ?? false,
      requestId: requestId ?? crypto.randomUUID(),
      files: await adapterFiles(folder),
    });
    const method = adapters.AdapterServiceService.uploadAdapter;
    return this.#repeat(options, () =>
      clientStream(this.#client, method, adapterMessages(header, folder), this.#callOptions(options)),
    );
  }

  // Tokenizers.

  tokenize(
    request: DeepPartial<tokenizers.TokenizeRequest>,
    options: CallOptions = {},
  ): Promise<tokenizers.TokenizeResponse> {
    return this.#read(tokenizers.TokenizerServiceService.tokenize, tokenizers.TokenizeRequest, request, options);
  }

  async detokenize(request: DeepPartial<tokenizers.DetokenizeRequest>, options: CallOptions = {}): Promise<string> {
    const method = tokenizers.TokenizerServiceService.detokenize;
    return (await this.#read(method, tokenizers.DetokenizeRequest, request, options)).text;
  }

  /** The ids that `generate` would read for these messages. */
  renderPrompt(
    request: DeepPartial<tokenizers.RenderPromptRequest>,
    options: CallOptions = {},
  ): Promise<tokenizers.RenderPromptResponse> {
    const method = tokenizers.TokenizerServiceService.renderPrompt;
    return this.#read(method, tokenizers.RenderPromptRequest, request, options);
  }

  /** Aborted by the caller, or by closing the client. */
  #signal({ signal }: CallOptions): AbortSignal {
    return signal === undefined ? this.#closing.signal : AbortSignal.any([signal, this.#closing.signal]);
  }

  #callOptions(options: CallOptions): CallOptions {
    const metadata = { ...this.#options.metadata, ...options.metadata };
    return { ...options, metadata, signal: this.#signal(options) };
  }

  #stream<Request, Response>(method: Method<Request, Response>, request: Request, options: CallOptions) {
    return serverStream(this.#client, method, request, this.#callOptions(options));
  }

  #watch(name: string, afterSequence: number, options: CallOptions) {
    const method = training.TrainingServiceService.watchTrainingJob;
    return this.#stream(method, training.WatchTrainingJobRequest.create({ name, afterSequence }), options);
  }

  async #repeat<T>(options: CallOptions, once: () => Promise<T>): Promise<T> {
    const backoff = new Backoff(this.#options.retry);
    for (;;) {
      try {
        return await once();
      } catch (error) {
        if (!(error instanceof LuthierError)) throw error;
        await backoff.wait(error, options.signal);
      }
    }
  }

  /** A call that changes nothing. */
  #read<Request, Response>(
    method: Method<Request, Response>,
    messages: Messages<Request>,
    request: DeepPartial<Request>,
    options: CallOptions,
  ): Promise<Response> {
    const message = messages.create(request);
    const merged = { timeoutMs: this.#options.timeoutMs, ...this.#callOptions(options) };
    return this.#repeat(merged, () => unary(this.#client, method, message, merged));
  }

  /** A call that changes something: with a request id of its own where the caller gave none, so that it can be repeated. */
  #change<Request extends { requestId: string }, Response>(
    method: Method<Request, Response>,
    messages: Messages<Request>,
    request: DeepPartial<Request>,
    options: CallOptions,
  ): Promise<Response> {
    const message = messages.create(request);
    if (message.requestId === '') message.requestId = crypto.randomUUID();
    const merged = { timeoutMs: this.#options.timeoutMs, ...this.#callOptions(options) };
    return this.#repeat(merged, () => unary(this.#client, method, message, merged));
  }
}
