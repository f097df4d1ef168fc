-- A database that opencode 1.18 and 2.x share: 2.x keeps 1.x's tables, and adds its own.
CREATE TABLE migration (id TEXT PRIMARY KEY, time_completed INTEGER NOT NULL);
CREATE TABLE project (
  id TEXT PRIMARY KEY, worktree TEXT NOT NULL, vcs TEXT, name TEXT, icon_url TEXT, icon_url_override TEXT, icon_color TEXT,
  time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL, time_initialized INTEGER,
  sandboxes TEXT NOT NULL, commands TEXT
);
CREATE TABLE event_sequence (aggregate_id TEXT PRIMARY KEY, seq INTEGER NOT NULL, owner_id TEXT);
CREATE TABLE event (
  id TEXT PRIMARY KEY,
  aggregate_id TEXT NOT NULL REFERENCES event_sequence(aggregate_id) ON DELETE CASCADE,
  seq INTEGER NOT NULL,
  created INTEGER NOT NULL DEFAULT 0,
  type TEXT NOT NULL,            -- versioned: session.tool.failed.1
  data TEXT NOT NULL
);
CREATE UNIQUE INDEX event_aggregate_seq_idx ON event(aggregate_id, seq);
CREATE INDEX event_aggregate_type_seq_idx ON event(aggregate_id, type, seq);
CREATE TABLE kv (key TEXT PRIMARY KEY, value TEXT NOT NULL, time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL);
CREATE TABLE session (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES project(id) ON DELETE CASCADE, workspace_id TEXT, parent_id TEXT, slug TEXT NOT NULL,
  directory TEXT NOT NULL, path TEXT, title TEXT NOT NULL, version TEXT NOT NULL, share_url TEXT, summary_additions INTEGER,
  summary_deletions INTEGER, summary_files INTEGER, summary_diffs TEXT, metadata TEXT, cost REAL NOT NULL DEFAULT 0,
  tokens_input INTEGER NOT NULL DEFAULT 0, tokens_output INTEGER NOT NULL DEFAULT 0, tokens_reasoning INTEGER NOT NULL DEFAULT 0,
  tokens_cache_read INTEGER NOT NULL DEFAULT 0, tokens_cache_write INTEGER NOT NULL DEFAULT 0, revert TEXT, permission TEXT, agent TEXT,
  model TEXT, time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL, time_compacting INTEGER, time_archived INTEGER
);
CREATE INDEX session_project_idx ON session(project_id);
CREATE INDEX session_workspace_idx ON session(workspace_id);
CREATE INDEX session_parent_idx ON session(parent_id);
CREATE TABLE message (
  id TEXT PRIMARY KEY, session_id TEXT NOT NULL REFERENCES session(id) ON DELETE CASCADE, time_created INTEGER NOT NULL,
  time_updated INTEGER NOT NULL, data TEXT NOT NULL
);
CREATE INDEX message_session_time_created_id_idx ON message(session_id, time_created, id);
CREATE TABLE part (
  id TEXT PRIMARY KEY, message_id TEXT NOT NULL REFERENCES message(id) ON DELETE CASCADE, session_id TEXT NOT NULL,
  time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL, data TEXT NOT NULL
);
CREATE INDEX part_message_id_id_idx ON part(message_id, id);
CREATE INDEX part_session_idx ON part(session_id);
CREATE TABLE session_v2 (
  id TEXT PRIMARY KEY,
  project_id TEXT NOT NULL REFERENCES project(id) ON DELETE CASCADE,
  workspace_id TEXT,
  parent_id TEXT,
  fork_session_id TEXT,
  fork_boundary TEXT,
  slug TEXT NOT NULL,
  directory TEXT NOT NULL,
  path TEXT,
  title TEXT,
  version TEXT NOT NULL,
  share_url TEXT,
  summary_additions INTEGER,
  summary_deletions INTEGER,
  summary_files INTEGER,
  summary_diffs TEXT,
  metadata TEXT,
  cost REAL NOT NULL DEFAULT 0,
  tokens_input INTEGER NOT NULL DEFAULT 0,
  tokens_output INTEGER NOT NULL DEFAULT 0,
  tokens_reasoning INTEGER NOT NULL DEFAULT 0,
  tokens_cache_read INTEGER NOT NULL DEFAULT 0,
  tokens_cache_write INTEGER NOT NULL DEFAULT 0,
  revert TEXT,
  permission TEXT,
  agent TEXT,
  model TEXT,
  time_created INTEGER NOT NULL,
  time_updated INTEGER NOT NULL,
  time_idle INTEGER,
  time_viewed INTEGER,
  idle_outcome TEXT,
  time_compacting INTEGER,
  time_archived INTEGER,
  time_suspended INTEGER,
  resume_attempts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX session_v2_project_idx ON session_v2(project_id);
CREATE INDEX session_v2_workspace_idx ON session_v2(workspace_id);
CREATE INDEX session_v2_parent_idx ON session_v2(parent_id);
CREATE INDEX session_v2_time_suspended_idx ON session_v2(time_suspended) WHERE time_suspended IS NOT NULL;
CREATE TABLE session_message (
  id TEXT PRIMARY KEY,
  session_id TEXT NOT NULL REFERENCES session_v2(id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  seq INTEGER NOT NULL,
  time_created INTEGER NOT NULL,
  time_updated INTEGER NOT NULL,
  data TEXT NOT NULL
);
CREATE UNIQUE INDEX session_message_session_seq_idx ON session_message(session_id, seq);
CREATE INDEX session_message_session_type_seq_idx ON session_message(session_id, type, seq);
CREATE INDEX session_message_session_time_created_id_idx ON session_message(session_id, time_created, id);
CREATE INDEX session_message_time_created_idx ON session_message(time_created);
CREATE TABLE session_pending (
  id TEXT PRIMARY KEY,
  session_id TEXT NOT NULL REFERENCES session_v2(id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  data TEXT NOT NULL,
  delivery TEXT,
  admitted_seq INTEGER NOT NULL,
  time_created INTEGER NOT NULL
);
CREATE INDEX session_pending_session_delivery_seq_idx ON session_pending(session_id, delivery, admitted_seq);
CREATE UNIQUE INDEX session_pending_session_compaction_idx ON session_pending(session_id) WHERE type = 'compaction';
CREATE UNIQUE INDEX session_pending_session_admitted_seq_idx ON session_pending(session_id, admitted_seq);
CREATE TABLE session_inbox (
  id TEXT PRIMARY KEY,
  session_id TEXT NOT NULL REFERENCES session_v2(id) ON DELETE CASCADE,
  type TEXT NOT NULL,            -- user | synthetic | compaction | move
  payload TEXT NOT NULL,
  delivery TEXT NOT NULL,        -- steer | queue
  enqueued_seq INTEGER NOT NULL,
  time_created INTEGER NOT NULL
);
CREATE INDEX session_inbox_session_delivery_seq_idx ON session_inbox(session_id, delivery, enqueued_seq);
CREATE UNIQUE INDEX session_inbox_session_enqueued_seq_idx ON session_inbox(session_id, enqueued_seq);
CREATE TABLE permission (
  id TEXT PRIMARY KEY, project_id TEXT NOT NULL REFERENCES project(id) ON DELETE CASCADE, action TEXT NOT NULL, resource TEXT NOT NULL,
  time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL
);  -- SAVED rules only ("always"); pending asks are never in the database
CREATE UNIQUE INDEX permission_project_action_resource_idx ON permission(project_id, action, resource);
CREATE TABLE instruction_blob (hash TEXT PRIMARY KEY, value TEXT);
CREATE TABLE instruction_entry (
  session_id TEXT NOT NULL REFERENCES session_v2(id) ON DELETE CASCADE, key TEXT NOT NULL, value TEXT, removed INTEGER NOT NULL DEFAULT 0,
  time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL, PRIMARY KEY(session_id, key)
);
CREATE TABLE instruction_state (
  session_id TEXT PRIMARY KEY REFERENCES session_v2(id) ON DELETE CASCADE, epoch_start INTEGER NOT NULL, through_seq INTEGER NOT NULL,
  initial_values TEXT NOT NULL, current_values TEXT NOT NULL
);
