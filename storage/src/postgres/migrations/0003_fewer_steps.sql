-- Fewer steps for a call, and a database that is another one is noticed on a connection that lives on.

-- When the server was started on which the database was last seen. A server that was started at another
-- time may be another system, also where its timeline has the same number: then the place is looked at.
ALTER TABLE {schema}.store ADD COLUMN started timestamptz;

-- Whether this is still the server on which a connection has arrived. It costs next to nothing, so each
-- first claim asks it; the place itself is read from a file.
CREATE FUNCTION {schema}.is_here(p_place text, p_started timestamptz) RETURNS boolean
LANGUAGE sql VOLATILE AS $$
    SELECT p_started IS NOT DISTINCT FROM pg_postmaster_start_time()
        AND right(p_place, 8) = substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)
$$;

-- As before, and it notes when the server was started.
CREATE OR REPLACE FUNCTION {schema}.arrive(p_now bigint) RETURNS bytea
LANGUAGE plpgsql AS $$
DECLARE
    here text := {schema}.place();
    it {schema}.store%ROWTYPE;
BEGIN
    SELECT * INTO STRICT it FROM {schema}.store;
    IF it.place <> here THEN
        UPDATE {schema}.store s SET
            place = here,
            started = pg_postmaster_start_time(),
            -- Openings and sessions that were noted there and are unknown here are fewer than that.
            incarnation = s.incarnation + 1000000,
            last_session = s.last_session + 1000000,
            forgotten_until = greatest(
                s.forgotten_until, COALESCE(p_now, {schema}.now_ms()) + 1000
            )
        WHERE s.place <> here;
    ELSIF it.started IS DISTINCT FROM pg_postmaster_start_time() THEN
        UPDATE {schema}.store s SET started = pg_postmaster_start_time()
        WHERE s.place = here AND s.started IS DISTINCT FROM pg_postmaster_start_time();
    END IF;
    RETURN it.id;
END
$$;

-- As before, but for how it notices that the database has moved.
CREATE OR REPLACE FUNCTION {schema}.claim(
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
    is_here boolean;
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
    SELECT s.forgotten_until, s.incarnation, {schema}.is_here(s.place, s.started)
        INTO claim.forgotten_until, r.incarnation, is_here FROM {schema}.store s;
    -- A connection through a pooler outlives a failover: here it is noticed all the same.
    IF NOT is_here THEN
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

-- As before, and it notices that the database has moved: over a connection that outlives a failover, a record
-- that was lost there must not be told as if it had never been.
CREATE OR REPLACE FUNCTION {schema}.seal(p_now bigint, p_key bytea, p_lock bigint, p_horizon bigint)
RETURNS TABLE (now_ms bigint, forgotten_until bigint, kept {schema}.records)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r {schema}.records%ROWTYPE;
    is_here boolean;
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
    -- Also for a key that was sealed before: that may have been the word of another server.
    IF r.state = 4 THEN
        SELECT {schema}.is_here(s.place, s.started) INTO is_here FROM {schema}.store s;
        IF NOT is_here THEN
            PERFORM {schema}.arrive(p_now);
        END IF;
    END IF;
    SELECT s.forgotten_until INTO seal.forgotten_until FROM {schema}.store s;
    seal.kept := r;
    RETURN NEXT;
END
$$;

-- As before, and it notices that the database has moved: numbers that were lost there are not given again.
CREATE OR REPLACE FUNCTION {schema}.open_session(
    p_now bigint, p_scope bytea, p_idle bigint, p_of_scope_max bigint, p_in_all_max bigint,
    OUT session bigint, OUT bound integer
)
LANGUAGE plpgsql AS $$
DECLARE
    t bigint;
    counted bigint;
    is_here boolean;
BEGIN
    -- One at a time, so that the bounds hold.
    SELECT {schema}.is_here(s.place, s.started) INTO is_here FROM {schema}.store s FOR UPDATE;
    IF NOT is_here THEN
        PERFORM {schema}.arrive(p_now);
    END IF;
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

-- Read from its text with each record that is written, which costs more than to write it. Who reads a record
-- refuses what these have kept out.
ALTER TABLE {schema}.records DROP CONSTRAINT records_key_check, DROP CONSTRAINT records_state_check;

-- Takes a call in the transaction that was just begun, and says what comes of it: 1 is its own token; 0: its
-- record is there, and nothing was taken that matters; 8: somebody else has it; 9: the database stands
-- elsewhere than before, which is to be noted first; others are why it is not executed, as `claim` says them.
-- Writes nothing.
--
-- Who has the lock looks after he has it: each statement in here sees what was committed before it. That is
-- so at read committed. At other levels the lock is taken before, in the transaction; `p_held` is empty, and
-- this is asked over another connection.
--
-- `p_mark` is gone with the transaction, so that what is written at its end finds out whether the handler has
-- ended it meanwhile. An owner that stands still for longer than `p_within` milliseconds is cut off by the
-- database.
CREATE FUNCTION {schema}.hold(
    p_now bigint, p_key bytea, p_scope bytea, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint,
    p_count boolean, p_in_progress_max bigint, p_in_doubt_max bigint,
    p_held bigint, p_held_number bigint, p_mark text, p_within text,
    OUT verdict integer, OUT now_ms bigint, OUT forgotten_until bigint,
    OUT in_progress bigint, OUT in_doubt bigint,
    OUT new_incarnation bigint, OUT new_sequence bigint
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    has_it boolean := true;
    is_there boolean;
    is_here boolean;
    first_unanswered bigint;
    told bigint;
    ignored text;
BEGIN
    hold.now_ms := COALESCE(p_now, floor(extract(epoch FROM statement_timestamp()) * 1000)::bigint);
    -- Where each statement has the picture of the first one, whoever had the lock before is not seen.
    IF p_held IS NOT NULL AND p_session IS NOT NULL
        AND current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'a call in a session is taken at read committed, and not at %',
            current_setting('transaction_isolation')
            USING ERRCODE = 'invalid_transaction_state',
                HINT = 'let default_transaction_isolation of the role be read committed';
    END IF;
    IF p_held IS NOT NULL THEN
        has_it := pg_try_advisory_xact_lock(p_held);
        -- One number in a session, one key.
        IF has_it AND p_held_number IS NOT NULL THEN
            has_it := pg_try_advisory_xact_lock(p_held_number);
        END IF;
        ignored := set_config('idle_in_transaction_session_timeout', p_within, true);
        ignored := set_config('onlyonce.call', p_mark, true);
    END IF;
    SELECT r.key IS NOT NULL, s.forgotten_until, s.incarnation, {schema}.is_here(s.place, s.started)
        INTO is_there, hold.forgotten_until, hold.new_incarnation, is_here
        FROM {schema}.store s LEFT JOIN {schema}.records r ON r.key = p_key;
    hold.verdict := CASE WHEN is_there THEN 0 WHEN NOT has_it THEN 8 WHEN NOT is_here THEN 9 END;
    IF hold.verdict IS NOT NULL THEN
        RETURN;
    END IF;
    hold.verdict := 1;
    IF p_session IS NOT NULL THEN
        SELECT s.first_unanswered INTO first_unanswered
            FROM {schema}.sessions s WHERE s.id = p_session;
        hold.verdict := CASE
            WHEN NOT FOUND THEN 5
            WHEN p_session_sequence < first_unanswered THEN 3
            WHEN p_session_sequence < p_session_first THEN 3
            WHEN p_session_sequence - first_unanswered >= {session_window} THEN 7
            WHEN EXISTS (
                SELECT 1 FROM {schema}.records o
                WHERE o.session = p_session AND o.session_sequence = p_session_sequence
            ) THEN 3
            ELSE 1
        END;
        -- A sweep or an acknowledgement may have removed a record since: then that shows here.
        SELECT s.forgotten_until INTO hold.forgotten_until FROM {schema}.store s;
    END IF;
    IF hold.verdict = 1 AND p_first_sent IS NOT NULL THEN
        told := greatest(hold.now_ms, hold.forgotten_until + 1);
        hold.verdict := CASE
            WHEN p_first_sent > told + {clock_difference_max} THEN 2
            WHEN p_first_sent <= hold.forgotten_until THEN 3
            ELSE 1
        END;
    END IF;
    IF hold.verdict = 1 AND p_count THEN
        SELECT count(*) INTO hold.in_progress FROM (
            SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at > hold.now_ms
            LIMIT p_in_progress_max
        ) counted;
        SELECT count(*) INTO hold.in_doubt FROM (
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 2 LIMIT p_in_doubt_max)
            UNION ALL
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at <= hold.now_ms
            LIMIT p_in_doubt_max)
        ) counted;
        IF hold.in_progress >= p_in_progress_max OR hold.in_doubt >= p_in_doubt_max THEN
            hold.verdict := 4;
        END IF;
    END IF;
    IF hold.verdict = 1 THEN
        hold.new_sequence := nextval('{schema}.tokens');
    END IF;
END
$$;

-- `hold` stands for both.
DROP FUNCTION {schema}.hold(
    bigint, bytea, bytea, bigint, bigint, bigint, bigint, boolean, bigint, bigint,
    bigint, bigint, text, bigint
);
DROP FUNCTION {schema}.look(
    bigint, bytea, bytea, bigint, bigint, bigint, bigint, boolean, bigint, bigint
);

-- Instead of a value, in a statement that writes the record of a call whose transaction is over: what its
-- handler has committed or rolled back by itself must not be answered as if it were the whole.
CREATE FUNCTION {schema}.call_is_over() RETURNS bigint
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the transaction of the call is over' USING ERRCODE = 'invalid_transaction_state';
END
$$;

-- Fails, with the verdict on a call and the rows that its one statement would have changed: so all of it is
-- undone.
CREATE FUNCTION {schema}.is_not_to_be(p_verdict integer, p_rows bigint) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% %', p_verdict, p_rows USING ERRCODE = 'ONL01';
END
$$;

-- As before, but that nothing is said where it could not see what was committed.
CREATE OR REPLACE FUNCTION {schema}.outcome(
    p_key bytea, p_held bigint, p_incarnation bigint, p_sequence bigint, p_attempt bytea,
    p_session bigint, p_session_sequence bigint
)
RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
    -- A picture that is older than the lock would not show what was committed before it.
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RETURN 2;
    END IF;
    PERFORM pg_advisory_xact_lock(p_held);
    IF EXISTS (
        SELECT 1 FROM {schema}.records r
        WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
            AND r.attempt = p_attempt
    ) THEN
        RETURN 1;
    END IF;
    -- Its record may have been removed because its answer was acknowledged, to somebody else.
    RETURN CASE WHEN p_session IS NOT NULL AND NOT EXISTS (
        SELECT 1 FROM {schema}.sessions s
        WHERE s.id = p_session AND s.first_unanswered <= p_session_sequence
    ) THEN 2 ELSE 0 END;
END
$$;
