/**
 * Hearth as a library: an engine in this process, transformers.js's `pipeline`, and the HTTP app for any
 * listener or serverless handler.
 *
 * @module
 */
export type { Backend, BackendInfo, ForwardRow, RowResult } from "./backend/backend.ts";
export { createEngine, type CreateEngineOptions } from "./engine/create_engine.ts";
export { Engine, type EngineOptions, type StartOptions } from "./engine/engine.ts";
export type * from "./engine/generate_request.ts";
export { Generation } from "./engine/generation.ts";
export type { CacheReason, CacheReport } from "./engine/cache_report.ts";
export type { TurnPlan } from "./engine/plan_turn.ts";
export type { PublicPrompt } from "./engine/public_prompts.ts";
export type { ImportedSession, SessionDetails, SessionInfo, Sessions, TenantOption } from "./engine/sessions.ts";
export type { ImportOptions } from "./engine/session_capsules.ts";
export { pipeline, type TextGenerationOptions, type TextGenerationPipeline } from "./engine/pipeline.ts";
export { type Streamer, TextStreamer, type TextStreamerOptions } from "./engine/text_streamer.ts";
export * from "./errors.ts";
export { type AppOptions, createApp } from "./http/app.ts";
export type { TenantKey } from "./http/tenants.ts";
export type { SamplingParams } from "./sampling/sampling_params.ts";
export type { ChatMessage } from "./tokenizer/chat_template.ts";
export type { RewindTarget } from "./session/rewind.ts";
export { Tokenizer } from "./tokenizer/tokenizer.ts";
