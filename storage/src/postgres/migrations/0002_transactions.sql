-- Calls whose effect is a transaction of this database: claim, effect and answer are one commit.
--
-- The claim is no row. It is a lock that lasts as long as the transaction, so that a crash of anybody
-- leaves nothing behind; the record is written once, completed, together with the effect. Whoever else
-- claims, seals or looks at the key tries the same lock, and is told that the call is in progress.

-- Begins a call in the transaction that the program has just begun: false where another one has it.
--
-- `p_mark` is gone with the transaction, so that what is written at its end finds out whether the handler
-- has ended it meanwhile. An owner that stands still for longer than `p_within` milliseconds is cut off
-- by the database: nobody waits for who was frozen.
CREATE FUNCTION {schema}.take(
    p_held bigint, p_held_number bigint, p_mark text, p_within bigint
)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    FOR round IN 1..4 LOOP
        IF pg_try_advisory_xact_lock(p_held) THEN
            -- One number in a session, one key.
            IF p_held_number IS NOT NULL AND NOT pg_try_advisory_xact_lock(p_held_number) THEN
                RETURN false;
            END IF;
            PERFORM set_config('onlyonce.call', p_mark, true),
                set_config('idle_in_transaction_session_timeout', p_within::text, true);
            RETURN true;
        END IF;
        -- Who only looks has it for some microseconds.
        PERFORM pg_sleep(0.001);
    END LOOP;
    RETURN false;
END
$$;

-- What a call comes to that has the lock of its key: the record, if there is one (verdict 0), or why it is
-- not executed, as `claim` says it; 1 is its own token. 9: the database stands elsewhere than before, which
-- is to be noted first. Writes nothing.
--
-- It must see what was committed before the lock was taken: it is asked in a snapshot that is younger.
CREATE FUNCTION {schema}.look(
    p_now bigint, p_key bytea, p_scope bytea, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint,
    p_count boolean, p_in_progress_max bigint, p_in_doubt_max bigint
)
RETURNS TABLE (
    verdict integer, now_ms bigint, forgotten_until bigint, in_progress bigint, in_doubt bigint,
    new_incarnation bigint, new_sequence bigint, kept {schema}.records
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r {schema}.records%ROWTYPE;
    first_unanswered bigint;
    place text;
    told bigint;
BEGIN
    look.now_ms := COALESCE(p_now, {schema}.now_ms());
    look.verdict := 0;
    SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    IF FOUND THEN
        SELECT s.forgotten_until INTO look.forgotten_until FROM {schema}.store s;
        look.kept := r;
        RETURN NEXT;
        RETURN;
    END IF;
    IF p_session IS NOT NULL THEN
        SELECT s.first_unanswered INTO first_unanswered
            FROM {schema}.sessions s WHERE s.id = p_session;
        look.verdict := CASE
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
    SELECT s.forgotten_until, s.incarnation, s.place
        INTO look.forgotten_until, look.new_incarnation, place FROM {schema}.store s;
    IF right(place, 8) <> substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) THEN
        look.verdict := 9;
    END IF;
    IF look.verdict = 0 AND p_first_sent IS NOT NULL THEN
        told := greatest(look.now_ms, look.forgotten_until + 1);
        look.verdict := CASE
            WHEN p_first_sent > told + {clock_difference_max} THEN 2
            WHEN p_first_sent <= look.forgotten_until THEN 3
            ELSE 0
        END;
    END IF;
    IF look.verdict = 0 AND p_count THEN
        SELECT count(*) INTO look.in_progress FROM (
            SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at > look.now_ms
            LIMIT p_in_progress_max
        ) counted;
        SELECT count(*) INTO look.in_doubt FROM (
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 2 LIMIT p_in_doubt_max)
            UNION ALL
            (SELECT 1 FROM {schema}.records o
            WHERE o.scope = p_scope AND o.state = 1 AND o.at <= look.now_ms
            LIMIT p_in_doubt_max)
        ) counted;
        IF look.in_progress >= p_in_progress_max OR look.in_doubt >= p_in_doubt_max THEN
            look.verdict := 4;
        END IF;
    END IF;
    IF look.verdict = 0 THEN
        look.new_sequence := nextval('{schema}.tokens');
        look.verdict := 1;
    END IF;
    RETURN NEXT;
END
$$;

-- Both in one round trip, for transactions in which each statement has a snapshot of its own. 8: somebody
-- else has the call.
CREATE FUNCTION {schema}.hold(
    p_now bigint, p_key bytea, p_scope bytea, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint,
    p_count boolean, p_in_progress_max bigint, p_in_doubt_max bigint,
    p_held bigint, p_held_number bigint, p_mark text, p_within bigint
)
RETURNS TABLE (
    verdict integer, now_ms bigint, forgotten_until bigint, in_progress bigint, in_doubt bigint,
    new_incarnation bigint, new_sequence bigint, kept {schema}.records
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    r {schema}.records%ROWTYPE;
BEGIN
    -- Of a call that is there already nothing is taken: it is answered at once.
    SELECT * INTO r FROM {schema}.records WHERE key = p_key;
    IF FOUND THEN
        hold.verdict := 0;
        hold.now_ms := COALESCE(p_now, {schema}.now_ms());
        hold.kept := r;
        SELECT s.forgotten_until INTO hold.forgotten_until FROM {schema}.store s;
        RETURN NEXT;
        RETURN;
    END IF;
    IF {schema}.take(p_held, p_held_number, p_mark, p_within) THEN
        RETURN QUERY SELECT * FROM {schema}.look(
            p_now, p_key, p_scope, p_first_sent, p_session, p_session_sequence, p_session_first,
            p_count, p_in_progress_max, p_in_doubt_max
        );
        RETURN;
    END IF;
    hold.verdict := 8;
    hold.now_ms := COALESCE(p_now, {schema}.now_ms());
    SELECT s.forgotten_until INTO hold.forgotten_until FROM {schema}.store s;
    RETURN NEXT;
END
$$;

-- (held) => completed, or in doubt, in the transaction that took the call. It fails where that is over: what
-- its handler has committed or rolled back by itself must not be answered as if it were the whole.
CREATE FUNCTION {schema}.conclude(
    p_now bigint, p_mark text, p_key bytea, p_scope bytea, p_principal bytea, p_operation bytea,
    p_name bytea, p_fingerprint_algorithm integer, p_fingerprint bytea, p_attempt bytea,
    p_claimed_at bigint, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint,
    p_incarnation bigint, p_sequence bigint,
    p_asked_retention bigint, p_retention bigint, p_idle bigint,
    p_state smallint, p_reason smallint, p_format integer, p_answer bytea
)
RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
    is_held boolean := false;
    t bigint := COALESCE(p_now, {schema}.now_ms());
    until bigint := t + least(COALESCE(p_asked_retention, p_retention), p_retention);
BEGIN
    IF current_setting('onlyonce.call', true) IS DISTINCT FROM p_mark THEN
        RAISE EXCEPTION 'the transaction of the call is over' USING ERRCODE = 'invalid_transaction_state';
    END IF;
    IF p_session IS NOT NULL THEN
        -- Kept from being removed until this is committed.
        SELECT s.used + p_idle > t AND s.first_unanswered <= p_session_sequence INTO is_held
            FROM {schema}.sessions s WHERE s.id = p_session FOR KEY SHARE;
        is_held := COALESCE(is_held, false) OR p_state = 2;
    END IF;
    INSERT INTO {schema}.records (
        key, version, state, at, scope, principal, operation, name,
        fingerprint_algorithm, fingerprint, incarnation, sequence, attempt, claimed_at, first_sent,
        session, session_sequence, session_first, retention, reason, answer_format, answer,
        answer_until, sweep_at
    ) VALUES (
        p_key, 1, p_state, t, p_scope, p_principal, p_operation, p_name,
        p_fingerprint_algorithm, p_fingerprint, p_incarnation, p_sequence, p_attempt, p_claimed_at,
        p_first_sent,
        CASE WHEN is_held THEN p_session END, CASE WHEN is_held THEN p_session_sequence END,
        CASE WHEN is_held THEN p_session_first END,
        p_asked_retention, p_reason, p_format, p_answer,
        CASE WHEN p_state = 3 THEN until END,
        CASE WHEN p_state = 3 AND NOT is_held THEN until END
    );
END
$$;

-- What became of a transaction whose commit was not answered: 1 committed, 0 not, 2 not to be known. Waits
-- until it is over: its lock goes after what it has written can be seen. The attempt is compared beside the
-- token: a number that was drawn and not yet durable is drawn again after a crash of the database.
CREATE FUNCTION {schema}.outcome(
    p_key bytea, p_held bigint, p_incarnation bigint, p_sequence bigint, p_attempt bytea,
    p_session bigint, p_session_sequence bigint
)
RETURNS integer
LANGUAGE plpgsql AS $$
BEGIN
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
