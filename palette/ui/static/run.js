// A run as the page sees it, moved on by the server's events. No elements here.

/** `phase`: starting, running, done, failed or stopped. `drafts`: community -> {state, text, error, seconds};
 * a draft's state: waiting, writing, done or failed. `values`: the graph's state. */
export function newRun(request) {
  return {
    request, phase: "starting", thread: null, run: null, checkpoint: null,
    running: new Set(), finished: new Set(), broken: new Set(),
    drafts: {}, account: "", reply: "", blend: null, loading: false, values: null, error: null, began: Date.now(), seconds: null,
  };
}

/** The run of a turn that a thread holds. */
export function pastRun(request, state, thread) {
  const run = newRun(request);
  Object.assign(run, {phase: "done", thread, checkpoint: state.checkpoint.checkpoint_id, values: state.values});
  takeDrafts(run, state.values.drafts ?? {});
  run.account = state.values.regulated ?? "";
  run.reply = state.values.answer ?? "";
  return run;
}

/** Moves a run on by one event, and says in words what is worth hearing; null for nothing. */
export function advance(run, {event, data}, names) {
  if (event === "metadata") {
    run.run = data.run_id;
    run.phase = "running";
  } else if (event === "custom") return told(run, data, names);
  else if (event === "tasks") task(run, data);
  else if (event === "values") run.values = data;
  else if (event === "error") {
    run.phase = "failed";
    run.error = {kind: data.error ?? "Error", message: data.message ?? String(data)};
  }
  return null;
}

/** The stream has ended. */
export function close(run) {
  run.seconds = (Date.now() - run.began) / 1000;
  run.running.clear();
  if (run.phase !== "running") return;
  run.phase = isDecided(run.values) ? "done" : "stopped";
}

/** Whether a turn came to its end: what the seed promises is said with the decision, and taken back by the next
 * turn's intake. The answer itself may be missing. */
export function isDecided(values) {
  return Boolean(values?.determinism);
}

/** An event of the run's own (docs/events.md). What this page does not know it leaves. */
function told(run, event, names) {
  const name = names[event.community] ?? event.community;
  if (event.type !== "models_loading") run.loading = false;
  if (event.type === "models_loading") {
    run.loading = true;
    return "The models are being loaded.";
  }
  if (event.type === "draft_started") Object.assign(draftOf(run, event.community), {state: "writing", text: ""});
  else if (event.type === "draft_token") draftOf(run, event.community).text += event.text;
  else if (event.type === "draft_done" || event.type === "draft_failed") {
    takeDrafts(run, {[event.community]: event});
    if (event.error) run.broken.add(`draft_${event.community}`);
    return event.error ? `No draft from ${name}: ${event.error}` : `${name} has drafted.`;
  } else if (event.type === "account_started") run.account = "";
  else if (event.type === "account_token") run.account += event.text;
  else if (event.type === "account_done") {
    run.account = event.text;
    return "The drafts are distilled into one account.";
  } else if (event.type === "answer_token") run.reply += event.text;
  else if (event.type === "blend") run.blend = event.communities;
  return null;
}

/** A node starts or ends. Its result is taken too: a node of one's own may emit no events. */
function task(run, data) {
  const name = data.name;
  if (!("result" in data)) {
    run.running.add(name);
    return;
  }
  run.running.delete(name);
  if (data.error) run.broken.add(name);
  else if (!run.broken.has(name)) run.finished.add(name);
  const result = data.result ?? {};
  if (name !== "intake") takeDrafts(run, result.drafts ?? {});
  if (typeof result.regulated === "string") run.account = result.regulated;
  for (const [key, draft] of Object.entries(result.drafts ?? {})) if (draft?.error) run.broken.add(`draft_${key}`);
}

function takeDrafts(run, drafts) {
  for (const [key, draft] of Object.entries(drafts)) {
    if (!draft) continue;
    Object.assign(draftOf(run, key), {
      state: draft.error ? "failed" : "done", text: draft.text ?? "", error: draft.error, seconds: draft.seconds,
    });
  }
}

function draftOf(run, key) {
  return (run.drafts[key] ??= {state: "waiting", text: "", error: null, seconds: null});
}
