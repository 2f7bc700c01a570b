-- Outboxes: what clients keep of their own calls.
--
-- {schema} stands for the store's schema. One process at a time has an outbox: whoever opens it draws a
-- larger epoch, and no word that names an older one changes anything. Outcomes of all functions: 4 the
-- outbox belongs to somebody else by now, 6 the database stands elsewhere than when it was last opened.

CREATE TABLE {schema}.outboxes (
    name text PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 255),
    -- The random identity of the outbox.
    id bytea NOT NULL CHECK (length(id) = 16),
    -- The digest of the scope in which its calls are made.
    scope bytea NOT NULL CHECK (length(scope) = 32),
    -- Raised by every opening.
    epoch bigint NOT NULL,
    -- Until when nobody else may open it, on this database's clock.
    owned_until bigint NOT NULL,
    -- The next number of a call. Never set back.
    next bigint NOT NULL,
    -- How many calls it has, and how many bytes of requests and answers.
    calls bigint NOT NULL,
    bytes bigint NOT NULL,
    -- The database system and its timeline, as the store notes them.
    place text NOT NULL,
    -- The database may have lost what was acknowledged, and not every call is marked so yet.
    is_unsure boolean NOT NULL DEFAULT false,
    -- For how long it was opened last, in milliseconds, and the random name of that opening.
    lease bigint NOT NULL DEFAULT 0,
    opening bytea
) WITH (fillfactor = 50);

CREATE TABLE {schema}.outbox_calls (
    outbox text NOT NULL REFERENCES {schema}.outboxes,
    number bigint NOT NULL,
    key bytea NOT NULL,
    -- Rises with every change: changes are compare-and-set on it.
    version bigint NOT NULL,
    -- The call in the program's own encoding, which has a checksum and the digests of the bodies.
    entry bytea NOT NULL,
    request bytea NOT NULL,
    answer bytea,
    PRIMARY KEY (outbox, number),
    UNIQUE (outbox, key)
);

CREATE FUNCTION {schema}.outbox_bytes(request bytea, answer bytea) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$
    SELECT (length(request) + COALESCE(length(answer), 0))::bigint
$$;

-- Makes an outbox, or takes it over from an owner whose lease has lapsed. Outcomes besides: 0 it is
-- opened, 1 somebody has it for so many milliseconds, 2 it is of another scope.
CREATE FUNCTION {schema}.outbox_open(
    p_now bigint, p_name text, p_id bytea, p_scope bytea, p_lease bigint, p_after_failover boolean
)
RETURNS TABLE (
    outcome integer, id bytea, epoch bigint, next bigint, calls bigint, bytes bigint,
    free_in bigint, is_moved boolean
)
LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    t bigint := COALESCE(p_now, {schema}.now_ms());
    here text := {schema}.place();
    o {schema}.outboxes%ROWTYPE;
BEGIN
    INSERT INTO {schema}.outboxes VALUES (p_name, p_id, p_scope, 0, 0, 1, 0, 0, here)
        ON CONFLICT (name) DO NOTHING;
    SELECT * INTO STRICT o FROM {schema}.outboxes WHERE name = p_name FOR UPDATE;
    outbox_open.is_moved := o.place <> here OR o.is_unsure;
    outbox_open.outcome := CASE
        WHEN o.scope <> p_scope THEN 2
        -- Whoever asks again because the answer was lost has it already. A lease that ends later than
        -- any that begins now was given before the clock was set back: its owner renews it, or is gone.
        WHEN o.owned_until > t AND o.owned_until - t <= 2 * o.lease
            AND o.opening IS DISTINCT FROM p_id THEN 1
        WHEN outbox_open.is_moved AND NOT p_after_failover THEN 6
        ELSE 0
    END;
    outbox_open.free_in := o.owned_until - t;
    IF outbox_open.outcome = 0 THEN
        UPDATE {schema}.outboxes SET
            -- Epochs that were drawn elsewhere and are unknown here are fewer than that.
            epoch = o.epoch + CASE WHEN o.place <> here THEN 1000000 ELSE 1 END,
            next = o.next + CASE WHEN o.place <> here THEN 1000000 ELSE 0 END,
            owned_until = t + p_lease,
            lease = p_lease,
            opening = p_id,
            place = here,
            -- Until all of its calls are marked: an opening that ends before that has opened nothing.
            is_unsure = outbox_open.is_moved
        WHERE name = p_name RETURNING * INTO o;
    END IF;
    outbox_open.id := o.id;
    outbox_open.epoch := o.epoch;
    outbox_open.next := o.next;
    outbox_open.calls := o.calls;
    outbox_open.bytes := o.bytes;
    RETURN NEXT;
END
$$;

-- Whether the outbox belongs to this epoch, and the database is the one that it was opened in. Nobody
-- opens it before this transaction has ended.
CREATE FUNCTION {schema}.outbox_owned(p_name text, p_epoch bigint) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    there text;
BEGIN
    SELECT o.place INTO there FROM {schema}.outboxes o
        WHERE o.name = p_name AND o.epoch = p_epoch FOR SHARE;
    IF NOT FOUND THEN
        RETURN 4;
    END IF;
    -- The system too: a pooler may have been moved to another one on the same timeline.
    IF there <> {schema}.place() THEN
        RETURN 6;
    END IF;
    RETURN 0;
END
$$;

-- Keeps it for longer, in the place in which it was opened; whoever lets it go does so anywhere.
CREATE FUNCTION {schema}.outbox_renew(p_now bigint, p_name text, p_epoch bigint, p_lease bigint)
RETURNS boolean
LANGUAGE plpgsql AS $$
BEGIN
    UPDATE {schema}.outboxes SET owned_until = COALESCE(p_now, {schema}.now_ms()) + p_lease
        WHERE name = p_name AND epoch = p_epoch AND (p_lease = 0 OR place = {schema}.place());
    RETURN FOUND;
END
$$;

-- Keeps a call. Outcomes besides: 0 it is kept, 1 the key is there: its entry, 2 as many calls as may
-- be, 3 as many bytes, 5 a later number was used: this word was late, or was carried out before.
-- `p_again`: the same may have been asked before, and may yet arrive: if it is refused now, it is then too.
CREATE FUNCTION {schema}.outbox_write(
    p_name text, p_epoch bigint, p_number bigint, p_key bytea, p_entry bytea, p_request bytea,
    p_calls_max bigint, p_bytes_max bigint, p_again boolean,
    OUT outcome integer, OUT there bytea, OUT held bigint
)
LANGUAGE plpgsql AS $$
DECLARE
    o {schema}.outboxes%ROWTYPE;
BEGIN
    SELECT * INTO o FROM {schema}.outboxes s
        WHERE s.name = p_name AND s.epoch = p_epoch FOR UPDATE;
    outcome := {schema}.outbox_owned(p_name, p_epoch);
    IF outcome <> 0 THEN
        RETURN;
    END IF;
    held := o.bytes;
    SELECT c.entry INTO there FROM {schema}.outbox_calls c
        WHERE c.outbox = p_name AND c.key = p_key;
    outcome := CASE
        WHEN FOUND THEN 1
        WHEN p_number < o.next THEN 5
        WHEN o.calls >= p_calls_max THEN 2
        WHEN o.bytes + length(p_request) > p_bytes_max THEN 3
        ELSE 0
    END;
    IF outcome = 0 THEN
        INSERT INTO {schema}.outbox_calls
            VALUES (p_name, p_number, p_key, 1, p_entry, p_request, NULL);
        UPDATE {schema}.outboxes s SET
            next = p_number + 1,
            calls = s.calls + 1,
            bytes = s.bytes + length(p_request)
        WHERE s.name = p_name;
    ELSIF p_again AND outcome IN (2, 3) THEN
        UPDATE {schema}.outboxes s SET next = p_number + 1 WHERE s.name = p_name;
    END IF;
END
$$;

-- Changes a call, or removes it where there is no entry. Outcomes besides: 0 done, 1 it is not the one
-- that was read any more.
CREATE FUNCTION {schema}.outbox_change(
    p_name text, p_epoch bigint, p_number bigint, p_version bigint, p_entry bytea, p_answer bytea
)
RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    c {schema}.outbox_calls%ROWTYPE;
    owned integer;
BEGIN
    IF p_entry IS NULL OR p_answer IS NOT NULL THEN
        -- How much there is changes as well. Its row comes first, as where a call is kept.
        PERFORM FROM {schema}.outboxes s WHERE s.name = p_name FOR UPDATE;
    END IF;
    owned := {schema}.outbox_owned(p_name, p_epoch);
    IF owned <> 0 THEN
        RETURN owned;
    END IF;
    SELECT * INTO c FROM {schema}.outbox_calls k
        WHERE k.outbox = p_name AND k.number = p_number AND k.version = p_version FOR UPDATE;
    IF NOT FOUND THEN
        RETURN 1;
    END IF;
    IF p_entry IS NULL THEN
        DELETE FROM {schema}.outbox_calls k WHERE k.outbox = p_name AND k.number = p_number;
        UPDATE {schema}.outboxes s SET
            calls = s.calls - 1,
            bytes = s.bytes - {schema}.outbox_bytes(c.request, c.answer)
        WHERE s.name = p_name;
        RETURN 0;
    END IF;
    UPDATE {schema}.outbox_calls k SET
        version = k.version + 1,
        entry = p_entry,
        answer = COALESCE(p_answer, k.answer)
    WHERE k.outbox = p_name AND k.number = p_number;
    IF p_answer IS NOT NULL THEN
        UPDATE {schema}.outboxes s SET bytes = s.bytes + length(p_answer) WHERE s.name = p_name;
    END IF;
    RETURN 0;
END
$$;
