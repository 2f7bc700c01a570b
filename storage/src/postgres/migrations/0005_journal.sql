-- Journals: what handlers have finished of calls that are not settled yet, step by step.
--
-- {schema} stands for the store's schema. A call that keeps a journal says so in its record, with the second
-- part of the token under which it does. Under another token there is none: a program that knows of no
-- journals may have claimed the call anew and run it whole.
--
-- The rule: **whoever notes something has the record's row until that is committed.** A note of a
-- call in progress changes no record, so that it leaves no dead row of one; but whoever doubts the call, or
-- claims it anew, changes its row, and so waits for the note or is seen by it. Hence what is read of a call in doubt in which no step is
-- unfinished stays as it was read until its record changes: its owner may only finish what it has begun. So
-- who claims it anew compares the record's version, as for every change, and needs not compare the journal.

ALTER TABLE {schema}.records ADD COLUMN journal_of bigint;

-- One row a step, and one, with no name and the place 0, for the request. A step that is begun and not
-- finished has no result. That is written into the same page where there is room.
CREATE TABLE {schema}.journal (
    key bytea NOT NULL,
    name text COLLATE "C" NOT NULL,
    -- In the order in which they were first noted.
    place integer NOT NULL,
    result bytea,
    -- Of the request: when the call was first claimed.
    begun_at bigint,
    PRIMARY KEY (key, name)
) WITH (fillfactor = 70);

-- A journal goes with its record, or when that is settled, in the same statement. A foreign key would do the
-- first, and look for a journal of each record that a sweep removes: of those none has one.
CREATE FUNCTION {schema}.journal_goes() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM {schema}.journal j WHERE j.key = OLD.key;
    RETURN NULL;
END
$$;

CREATE TRIGGER journal_goes_with_its_record AFTER DELETE ON {schema}.records
    FOR EACH ROW WHEN (OLD.journal_of IS NOT NULL)
    EXECUTE FUNCTION {schema}.journal_goes();

CREATE TRIGGER journal_goes_when_settled AFTER UPDATE OF journal_of ON {schema}.records
    FOR EACH ROW WHEN (OLD.journal_of IS NOT NULL AND NEW.journal_of IS NULL)
    EXECUTE FUNCTION {schema}.journal_goes();

-- As before, and it keeps the request of a call that keeps a journal. Who says nothing of one asks as before.
DROP FUNCTION {schema}.claim(
    bigint, bytea, bigint, bytea, bytea, bytea, bytea, integer, bytea, bytea,
    bigint, bigint, bigint, bigint, bigint, bigint, bytea, bigint, boolean, bigint, bigint
);

CREATE FUNCTION {schema}.claim(
    p_now bigint, p_key bytea, p_lock bigint, p_scope bytea,
    p_principal bytea, p_operation bytea, p_name bytea,
    p_fingerprint_algorithm integer, p_fingerprint bytea, p_attempt bytea,
    p_lease bigint, p_retention bigint, p_first_sent bigint,
    p_session bigint, p_session_sequence bigint, p_session_first bigint, p_session_scope bytea,
    p_idle bigint, p_count boolean, p_in_progress_max bigint, p_in_doubt_max bigint,
    p_request bytea DEFAULT NULL
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
        IF p_request IS NOT NULL THEN
            r.journal_of := r.sequence;
            -- What an earlier life of the key might have left would be taken for steps of this one.
            DELETE FROM {schema}.journal j WHERE j.key = p_key;
            INSERT INTO {schema}.journal VALUES (p_key, '', 0, p_request, claim.now_ms);
        END IF;
        INSERT INTO {schema}.records VALUES (r.*);
        claim.verdict := 1;
        claim.kept := r;
    END IF;
    RETURN NEXT;
END
$$;

-- As before, and its journal goes.
CREATE OR REPLACE FUNCTION {schema}.complete(
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
        journal_of = NULL,
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

-- Notes something of a step: 1 it is begun, 2 finished with `p_result`, 3 it was not executed. Outcomes: 0
-- noted, 1 the claim does not hold, 2 the step is finished with another result, 3 the call keeps no journal,
-- 4 the journal would be too large: `size`, 5 it has as many steps as it may have.
--
-- Of an owner whose claim has ended it is still taken what became of a step that it had begun: it knows. Where
-- that was what nobody could know, the call can go on (its reason is then 3, its owner is gone).
-- `p_again`: the same may have been noted before, and its answer got lost.
CREATE FUNCTION {schema}.note(
    p_now bigint, p_key bytea, p_incarnation bigint, p_sequence bigint,
    p_name text, p_what integer, p_result bytea,
    p_bytes_max bigint, p_steps_max bigint, p_again boolean,
    OUT outcome integer, OUT size bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    is_in_progress boolean;
    until bigint;
    keeps boolean;
    is_held boolean;
    is_there boolean;
    is_done boolean;
    is_same boolean;
    steps bigint;
    last integer;
    brings bigint;
BEGIN
    -- Nobody takes the call over before this is committed, and two notes of it come one after the other.
    SELECT r.state = 1, r.at, r.journal_of IS NOT DISTINCT FROM r.sequence
        INTO is_in_progress, until, keeps
        FROM {schema}.records r
        WHERE r.key = p_key AND r.incarnation = p_incarnation AND r.sequence = p_sequence
            AND r.state <= 2
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        outcome := 1;
        RETURN;
    END IF;
    IF NOT keeps THEN
        outcome := 3;
        RETURN;
    END IF;
    -- The clock is looked at once the row is had: who has waited may have waited for too long.
    is_held := is_in_progress AND until > COALESCE(p_now, {schema}.now_ms());
    SELECT j.result IS NOT NULL, COALESCE(j.result = p_result, false) INTO is_done, is_same
        FROM {schema}.journal j WHERE j.key = p_key AND j.name = p_name;
    is_there := FOUND;
    outcome := CASE
        WHEN p_again AND p_what = 2 AND is_there AND is_same THEN 0
        WHEN p_again AND p_what = 3 AND NOT is_there THEN 0
        WHEN NOT is_held AND (p_what = 1 OR NOT is_there OR is_done) THEN 1
        WHEN is_there AND is_done AND p_what = 2 AND is_same THEN 0
        WHEN is_there AND is_done THEN 2
        WHEN p_what = 1 AND is_there THEN 0
    END;
    IF outcome IS NOT NULL THEN
        RETURN;
    END IF;
    outcome := 0;
    SELECT count(*) FILTER (WHERE j.place > 0), max(j.place),
            sum(octet_length(j.name) + COALESCE(octet_length(j.result), 0))
        INTO steps, last, size
        FROM {schema}.journal j WHERE j.key = p_key;
    brings := COALESCE(octet_length(p_result), 0)
        + CASE WHEN is_there THEN 0 ELSE octet_length(p_name) END;
    size := size + brings;
    IF p_what = 3 THEN
        DELETE FROM {schema}.journal j WHERE j.key = p_key AND j.name = p_name;
    ELSIF NOT is_there AND steps >= p_steps_max THEN
        outcome := 5;
    ELSIF size > p_bytes_max AND brings > 0 THEN
        outcome := 4;
    ELSIF is_there THEN
        UPDATE {schema}.journal j SET result = p_result WHERE j.key = p_key AND j.name = p_name;
    ELSE
        -- At an isolation that shows an older picture another note may have it by now: that is a conflict,
        -- and asked again.
        INSERT INTO {schema}.journal VALUES (p_key, p_name, last + 1, p_result)
            ON CONFLICT DO NOTHING;
    END IF;
    IF outcome = 0 AND NOT is_in_progress THEN
        UPDATE {schema}.records r SET version = r.version + 1, reason = 3
            WHERE r.key = p_key AND r.reason = 1 AND r.answer_format IS NULL AND NOT EXISTS (
                SELECT 1 FROM {schema}.journal j WHERE j.key = p_key AND j.result IS NULL
            );
    END IF;
END
$$;

-- in doubt => in doubt, with what somebody knows of a step that was begun: its result, or nothing where it was
-- not executed. `false`: the record, or what of it is unfinished, is not what was read any more.
CREATE FUNCTION {schema}.resolve_step(
    p_key bytea, p_version bigint, p_incarnation bigint, p_sequence bigint, p_unfinished bigint,
    p_name text, p_result bytea, p_at bigint, p_reason smallint
)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    PERFORM FROM {schema}.records r
        WHERE r.key = p_key AND r.version = p_version
            AND r.incarnation = p_incarnation AND r.sequence = p_sequence
            AND r.journal_of = r.sequence AND r.state <= 2
        FOR NO KEY UPDATE;
    IF NOT FOUND OR p_unfinished <> (
        SELECT count(*) FROM {schema}.journal j WHERE j.key = p_key AND j.result IS NULL
    ) THEN
        RETURN false;
    END IF;
    IF p_result IS NULL THEN
        DELETE FROM {schema}.journal j
            WHERE j.key = p_key AND j.name = p_name AND j.result IS NULL;
    ELSE
        UPDATE {schema}.journal j SET result = p_result
            WHERE j.key = p_key AND j.name = p_name AND j.result IS NULL;
    END IF;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE {schema}.records r SET version = r.version + 1, state = 2, at = p_at, reason = p_reason
        WHERE r.key = p_key;
    RETURN true;
END
$$;
