-- The records of a store, its sessions, and the functions through which programs use them.
--
-- {schema} stands for the store's schema. Times are milliseconds since 1970 on this database's clock.
-- Names of clients and keys are kept as bytes: they may hold what a text of PostgreSQL cannot.

-- One row: the store itself.
CREATE TABLE {schema}.store (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- The random identity of the store.
    id bytea NOT NULL CHECK (length(id) = 16),
    -- Raised by every opening and whenever the database may have lost what it acknowledged; the first
    -- part of every fencing token.
    incarnation bigint NOT NULL,
    -- The database system and its timeline. Another one means a failover or a restored backup.
    place text NOT NULL,
    -- Calls first sent at or before this time may have been forgotten.
    forgotten_until bigint NOT NULL,
    last_session bigint NOT NULL,
    last_used bigint NOT NULL
) WITH (fillfactor = 50);

-- The second part of every fencing token. Never set back, never recycled.
CREATE SEQUENCE {schema}.tokens AS bigint;

CREATE TABLE {schema}.records (
    -- BLAKE3 of scope and key.
    key bytea PRIMARY KEY CHECK (length(key) = 32),
    -- Rises with every change of the record: changes are compare-and-set on it and on the token.
    version bigint NOT NULL,
    -- 1 in progress, 2 in doubt, 3 completed, 4 sealed.
    state smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
    -- Since when it is in doubt, completed or sealed; for a call in progress, until when it is leased.
    at bigint NOT NULL,
    -- What follows is empty for a sealed key.
    scope bytea,
    principal bytea,
    operation bytea,
    name bytea,
    fingerprint_algorithm integer,
    fingerprint bytea,
    incarnation bigint,
    sequence bigint,
    attempt bytea,
    claimed_at bigint,
    first_sent bigint,
    session bigint,
    session_sequence bigint,
    session_first bigint,
    retention bigint,
    -- Of a call in doubt: 1 ambiguous, 2 lease lapsed, 3 owner gone, 4 unrecorded.
    reason smallint,
    answer_format integer,
    answer bytea,
    answer_until bigint,
    resolved_by text,
    -- When a sweep has to look at it next. Empty for what is open, or held for a session.
    sweep_at bigint
);

-- What is open, in the order in which it is listed and lapses.
CREATE INDEX records_open ON {schema}.records (state, at, key) WHERE state <= 2;
-- The same by scope: quotas.
CREATE INDEX records_open_by_scope ON {schema}.records (scope, state, at) WHERE state <= 2;
CREATE INDEX records_by_session ON {schema}.records (session, session_sequence)
    WHERE session IS NOT NULL;
CREATE INDEX records_to_sweep ON {schema}.records (sweep_at) WHERE sweep_at IS NOT NULL;

CREATE TABLE {schema}.sessions (
    id bigint PRIMARY KEY,
    -- The principal's scope, of no operation.
    scope bytea NOT NULL,
    -- Calls below this number are acknowledged.
    first_unanswered bigint NOT NULL,
    used bigint NOT NULL
) WITH (fillfactor = 50);

CREATE INDEX sessions_by_scope ON {schema}.sessions (scope);

CREATE FUNCTION {schema}.now_ms() RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint
$$;

-- Where this database stands: which system it is, and which timeline it writes.
CREATE FUNCTION {schema}.place() RETURNS text LANGUAGE sql VOLATILE AS $$
    SELECT (SELECT system_identifier FROM pg_control_system())::text
        || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
$$;

-- Notes that a connection has been made, and answers the identity of the store. A database at another
-- place than the last one may not have what was acknowledged there: no token of it is given again, no
-- session, and calls first sent before now may have been executed.
CREATE FUNCTION {schema}.arrive(p_now bigint) RETURNS bytea
LANGUAGE plpgsql AS $$
DECLARE
    here text := {schema}.place();
    it {schema}.store%ROWTYPE;
BEGIN
    SELECT * INTO STRICT it FROM {schema}.store;
    IF it.place <> here THEN
        UPDATE {schema}.store s SET
            place = here,
            -- Openings and sessions that were noted there and are unknown here are fewer than that.
            incarnation = s.incarnation + 1000000,
            last_session = s.last_session + 1000000,
            forgotten_until = greatest(
                s.forgotten_until, COALESCE(p_now, {schema}.now_ms()) + 1000
            )
        WHERE s.place <> here;
    END IF;
    RETURN it.id;
END
$$;

-- A session that is used by a call, or resumed. `known`: 0 live, 5 expired, 6 never given.
-- `p_first` acknowledges the calls below it; those that have an answer are forgotten at once.
--
-- The time of use is noted sixteen times in the life of an idle session, not for each call.
CREATE FUNCTION {schema}.use_session(
    p_now bigint, p_session bigint, p_scope bytea, p_first bigint, p_idle bigint,
    OUT known integer, OUT first_unanswered bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    s {schema}.sessions%ROWTYPE;
BEGIN
    SELECT * INTO s FROM {schema}.sessions WHERE id = p_session;
    IF NOT FOUND OR s.used + p_idle <= p_now THEN
        SELECT CASE WHEN p_session BETWEEN 1 AND last_session THEN 5 ELSE 6 END
            INTO use_session.known FROM {schema}.store;
        RETURN;
    END IF;
    IF s.scope <> p_scope THEN
        use_session.known := 6;
        RETURN;
    END IF;
    use_session.known := 0;
    use_session.first_unanswered := s.first_unanswered;
    IF p_first > s.first_unanswered OR s.used + p_idle / 16 <= p_now THEN
        UPDATE {schema}.sessions SET
            used = greatest(used, p_now),
            first_unanswered = greatest(first_unanswered, p_first)
        WHERE id = p_session
        RETURNING first_unanswered INTO use_session.first_unanswered;
        IF NOT FOUND THEN
            -- A sweep has just ended it.
            use_session.known := 5;
            RETURN;
        END IF;
        DELETE FROM {schema}.records
        WHERE session = p_session AND session_sequence < use_session.first_unanswered AND state = 3;
    END IF;
END
$$;

-- Claims a key that is absent, or answers what is known of it (verdict 0): then nothing was written and
-- the program decides. Other verdicts: 1 claimed, 2 first sent too far ahead, 3 stale, 4 over quota,
-- 5 session expired, 6 session never given, 7 window full.
--
-- What is open in the scope is counted only where `p_count` asks for it: the program knows for how many
-- calls the last count is good.
--
-- Who finds a key absent waits for whoever claims it at the moment, and looks again: so the token is
-- drawn by one at a time and is larger than all that the key ever had. What is read after the record is
-- read in a later snapshot: a record that a sweep or an acknowledgement removed is missed only by who
-- also sees that it was forgotten.
CREATE FUNCTION {schema}.claim(
    p_now bigint, p_key bytea, p_lock bigint, p_scope bytea,
    p_principal bytea, p_operation bytea, p_name bytea,
    p_fingerprint_algorithm integer, p_fingerprint bytea, p_attempt bytea,
    p_lease bigint, p_retention bigint, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint, p_session_scope bytea,
    p_idle bigint, p_count boolean, p_in_progress_max bigint, p_in_doubt_max bigint
)
RETURNS TABLE (
    verdict integer, now_ms bigint, forgotten_until bigint,
    in_progress bigint, in_doubt bigint, kept {schema}.records
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r {schema}.records%ROWTYPE;
    known integer := 0;
    first_unanswered bigint;
    place text;
    told bigint;
BEGIN
    claim.now_ms := COALESCE(p_now, {schema}.now_ms());
    claim.verdict := 0;
    IF p_session IS NOT NULL THEN
        -- Who sends a call has not had its answer: what says otherwise acknowledges nothing.
        SELECT u.known INTO known FROM {schema}.use_session(
            claim.now_ms, p_session, p_session_scope,
            CASE WHEN p_session_first <= p_session_sequence THEN p_session_first END, p_idle
        ) u;
    END IF;
    SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock(p_lock);
        -- Who has waited looks at the clock again: a lease begins now.
        claim.now_ms := COALESCE(p_now, {schema}.now_ms());
        SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    END IF;
    IF FOUND THEN
        SELECT s.forgotten_until INTO claim.forgotten_until FROM {schema}.store s;
        claim.kept := r;
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_session IS NOT NULL THEN
        claim.verdict := known;
        IF known = 0 THEN
            -- One number, one key: two that share it are told apart here.
            PERFORM pg_advisory_xact_lock(hashint8extended(p_session, p_session_sequence));
            SELECT s.first_unanswered INTO first_unanswered
                FROM {schema}.sessions s WHERE s.id = p_session;
            claim.verdict := CASE
                WHEN NOT FOUND THEN 5
                WHEN p_session_sequence < first_unanswered THEN 3
                WHEN p_session_sequence < p_session_first THEN 3
                WHEN p_session_sequence - first_unanswered >= {session_window} THEN 7
                WHEN EXISTS (
                    SELECT 1 FROM {schema}.records o
                    WHERE o.session = p_session AND o.session_sequence = p_session_sequence
                ) THEN 3
                ELSE 0
            END;
        END IF;
    END IF;
    SELECT s.forgotten_until, s.incarnation, s.place
        INTO claim.forgotten_until, r.incarnation, place FROM {schema}.store s;
    -- A connection through a pooler outlives a failover: here it is noticed all the same.
    IF right(place, 8) <> substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) THEN
        PERFORM {schema}.arrive(p_now);
        SELECT s.forgotten_until, s.incarnation INTO claim.forgotten_until, r.incarnation
            FROM {schema}.store s;
    END IF;
    IF claim.verdict = 0 AND p_first_sent IS NOT NULL THEN
        told := greatest(claim.now_ms, claim.forgotten_until + 1);
        claim.verdict := CASE
            WHEN p_first_sent > told + {clock_difference_max} THEN 2
            WHEN p_first_sent <= claim.forgotten_until THEN 3
            ELSE 0
        END;
    END IF;
    IF claim.verdict = 0 AND p_count THEN
        SELECT count(*) INTO claim.in_progress FROM (
            SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at > claim.now_ms
            LIMIT p_in_progress_max
        ) counted;
        -- A lapse that nobody has written down yet is a doubt.
        SELECT count(*) INTO claim.in_doubt FROM (
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 2 LIMIT p_in_doubt_max)
            UNION ALL
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at <= claim.now_ms
            LIMIT p_in_doubt_max)
        ) counted;
        IF claim.in_progress >= p_in_progress_max OR claim.in_doubt >= p_in_doubt_max THEN
            claim.verdict := 4;
        END IF;
    END IF;
    IF claim.verdict = 0 THEN
        r.key := p_key;
        r.version := 1;
        r.state := 1;
        r.at := claim.now_ms + p_lease;
        r.scope := p_scope;
        r.principal := p_principal;
        r.operation := p_operation;
        r.name := p_name;
        r.fingerprint_algorithm := p_fingerprint_algorithm;
        r.fingerprint := p_fingerprint;
        r.sequence := nextval('{schema}.tokens');
        r.attempt := p_attempt;
        r.claimed_at := claim.now_ms;
        r.first_sent := p_first_sent;
        r.session := p_session;
        r.session_sequence := p_session_sequence;
        r.session_first := p_session_first;
        r.retention := p_retention;
        INSERT INTO {schema}.records VALUES (r.*);
        claim.verdict := 1;
        claim.kept := r;
    END IF;
    RETURN NEXT;
END
$$;

-- Makes an absent key impossible; answers what is known of it.
CREATE FUNCTION {schema}.seal(p_now bigint, p_key bytea, p_lock bigint, p_horizon bigint)
RETURNS TABLE (now_ms bigint, forgotten_until bigint, kept {schema}.records)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r {schema}.records%ROWTYPE;
BEGIN
    SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    IF NOT FOUND THEN
        PERFORM pg_advisory_xact_lock(p_lock);
        SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    END IF;
    seal.now_ms := COALESCE(p_now, {schema}.now_ms());
    IF NOT FOUND THEN
        INSERT INTO {schema}.records (key, version, state, at, sweep_at)
        VALUES (p_key, 1, 4, seal.now_ms, seal.now_ms + p_horizon)
        RETURNING * INTO r;
    END IF;
    SELECT s.forgotten_until INTO seal.forgotten_until FROM {schema}.store s;
    seal.kept := r;
    RETURN NEXT;
END
$$;

-- (in progress | in doubt) => completed, by whoever has the token. A call whose session holds it is not
-- swept by its age; one that is in no session any more is like any other.
-- `p_again`: the same may have been done before, and its answer got lost.
CREATE FUNCTION {schema}.complete(
    p_now bigint, p_key bytea, p_incarnation bigint, p_sequence bigint,
    p_retention bigint, p_idle bigint, p_format integer, p_answer bytea, p_again boolean
)
RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
    of_session bigint;
    of_sequence bigint;
    is_held boolean := false;
    t bigint;
BEGIN
    SELECT r.session, r.session_sequence INTO of_session, of_sequence FROM {schema}.records r
        WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence;
    t := COALESCE(p_now, {schema}.now_ms());
    IF of_session IS NOT NULL THEN
        -- Kept from being removed until this is committed.
        SELECT s.used + p_idle > t AND s.first_unanswered <= of_sequence INTO is_held
            FROM {schema}.sessions s WHERE s.id = of_session FOR KEY SHARE;
        is_held := COALESCE(is_held, false);
    END IF;
    UPDATE {schema}.records r SET
        state = 3,
        version = r.version + 1,
        at = t,
        answer_until = t + least(COALESCE(r.retention, p_retention), p_retention),
        answer_format = p_format,
        answer = p_answer,
        reason = NULL,
        resolved_by = NULL,
        session = CASE WHEN is_held THEN r.session END,
        session_sequence = CASE WHEN is_held THEN r.session_sequence END,
        session_first = CASE WHEN is_held THEN r.session_first END,
        sweep_at = CASE WHEN NOT is_held
            THEN t + least(COALESCE(r.retention, p_retention), p_retention) END
    WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
        AND r.state IN (1, 2);
    IF FOUND THEN
        RETURN true;
    END IF;
    RETURN p_again AND EXISTS (
        SELECT 1 FROM {schema}.records r
        WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
            AND r.state = 3 AND r.resolved_by IS NULL
            AND r.answer_format = p_format AND r.answer = p_answer
    );
END
$$;

-- in progress => in progress, for longer. Answers until when, or nothing: the claim has ended.
CREATE FUNCTION {schema}.renew(
    p_now bigint, p_key bytea, p_incarnation bigint, p_sequence bigint, p_lease bigint
)
RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    until bigint;
BEGIN
    UPDATE {schema}.records r SET
        version = r.version + 1,
        at = COALESCE(p_now, {schema}.now_ms()) + p_lease
    WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
        AND r.state = 1 AND r.at > COALESCE(p_now, {schema}.now_ms())
    RETURNING r.at INTO until;
    RETURN until;
END
$$;

-- in progress => in doubt, and in doubt => in doubt unless `p_first_word`: who only knows that the claim
-- was dropped says less than what is written. A doubt keeps its beginning, and its answer unless a new
-- one comes. Answers whether the token is that of an open call.
CREATE FUNCTION {schema}.doubt(
    p_now bigint, p_key bytea, p_incarnation bigint, p_sequence bigint,
    p_reason smallint, p_format integer, p_answer bytea, p_first_word boolean
)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {schema}.records r SET
        state = 2,
        version = r.version + 1,
        at = CASE WHEN r.state = 2 THEN r.at ELSE COALESCE(p_now, {schema}.now_ms()) END,
        reason = p_reason,
        answer_format = COALESCE(p_format, r.answer_format),
        answer = COALESCE(p_answer, r.answer)
    WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
        AND (r.state = 1 OR r.state = 2 AND NOT p_first_word);
    RETURN FOUND OR EXISTS (
        SELECT 1 FROM {schema}.records r
        WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
            AND r.state = 2
    );
END
$$;

-- A new session: its number, or which bound is reached (1 the principal's, 2 the store's).
CREATE FUNCTION {schema}.open_session(
    p_now bigint, p_scope bytea, p_idle bigint, p_of_scope_max bigint, p_in_all_max bigint,
    OUT session bigint, OUT bound integer
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t bigint;
    counted bigint;
BEGIN
    -- One at a time, so that the bounds hold.
    PERFORM 1 FROM {schema}.store FOR UPDATE;
    t := COALESCE(p_now, {schema}.now_ms());
    SELECT count(*) INTO counted FROM {schema}.sessions WHERE scope = p_scope AND used + p_idle > t;
    IF counted >= p_of_scope_max THEN
        open_session.bound := 1;
        RETURN;
    END IF;
    SELECT count(*) INTO counted FROM {schema}.sessions WHERE used + p_idle > t;
    IF counted >= p_in_all_max THEN
        open_session.bound := 2;
        RETURN;
    END IF;
    UPDATE {schema}.store SET last_session = last_session + 1
        RETURNING last_session INTO open_session.session;
    INSERT INTO {schema}.sessions VALUES (open_session.session, p_scope, 0, t);
END
$$;

-- One page of a sweep, of at most `p_page` records of each kind. `seen` is how many it took: a page that
-- took none is the last one. While another process sweeps, nothing is done here (`is_busy`).
--
-- The note of what is forgotten is committed together with the removal.
CREATE FUNCTION {schema}.sweep(
    p_now bigint, p_lock bigint, p_horizon bigint, p_idle bigint, p_page bigint,
    OUT seen bigint, OUT answers bigint, OUT tombstones bigint, OUT is_busy boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t bigint;
    counted bigint;
BEGIN
    sweep.seen := 0;
    sweep.answers := 0;
    sweep.tombstones := 0;
    sweep.is_busy := NOT pg_try_advisory_xact_lock(p_lock);
    IF sweep.is_busy THEN
        RETURN;
    END IF;
    t := COALESCE(p_now, {schema}.now_ms());
    -- Leases that lapsed without anybody asking.
    UPDATE {schema}.records SET state = 2, version = version + 1, at = t, reason = 2
    WHERE key IN (
        SELECT key FROM {schema}.records WHERE state = 1 AND at <= t
        ORDER BY at LIMIT p_page FOR UPDATE SKIP LOCKED
    );
    GET DIAGNOSTICS counted = ROW_COUNT;
    sweep.seen := sweep.seen + counted;
    -- What sessions held that were not used for too long.
    UPDATE {schema}.records SET
        version = version + 1,
        session = NULL, session_sequence = NULL, session_first = NULL, sweep_at = answer_until
    WHERE key IN (
        SELECT r.key FROM {schema}.sessions s
        JOIN {schema}.records r ON r.session = s.id AND r.state = 3
        WHERE s.used + p_idle <= t LIMIT p_page FOR UPDATE OF r SKIP LOCKED
    );
    GET DIAGNOSTICS counted = ROW_COUNT;
    sweep.seen := sweep.seen + counted;
    DELETE FROM {schema}.sessions s
    WHERE s.used + p_idle <= t AND NOT EXISTS (
        SELECT 1 FROM {schema}.records r WHERE r.session = s.id AND r.state = 3
    );
    -- Answers past their retention, and settled records past the horizon.
    WITH page AS MATERIALIZED (
        SELECT key, at + p_horizon <= t AS is_past, answer IS NOT NULL AS has_answer,
            greatest(at, claimed_at, first_sent) + {clock_difference_max} AS latest
        FROM {schema}.records WHERE sweep_at <= t
        ORDER BY sweep_at LIMIT p_page FOR UPDATE SKIP LOCKED
    ), noted AS (
        UPDATE {schema}.store SET forgotten_until = greatest(
            forgotten_until, (SELECT max(latest) FROM page WHERE is_past)
        ) WHERE EXISTS (SELECT 1 FROM page WHERE is_past)
    ), removed AS (
        DELETE FROM {schema}.records r USING page p WHERE r.key = p.key AND p.is_past
    ), bared AS (
        UPDATE {schema}.records r SET
            version = r.version + 1, answer = NULL, answer_format = NULL, sweep_at = r.at + p_horizon
        FROM page p WHERE r.key = p.key AND NOT p.is_past
    )
    SELECT count(*), count(*) FILTER (WHERE has_answer AND NOT is_past), count(*) FILTER (WHERE is_past)
        INTO counted, sweep.answers, sweep.tombstones FROM page;
    sweep.seen := sweep.seen + counted;
    UPDATE {schema}.store SET last_used = t WHERE last_used < t - 60000;
END
$$;
