-- The bank of a cluster: {schema} stands for its schema. Nothing here knows of idempotency keys beyond
-- what an outside system does that is asked by them, and refuses tokens that are too old.

CREATE TABLE {schema}.accounts (
    account integer PRIMARY KEY,
    balance bigint NOT NULL
);

-- A row for each time that a transfer was made; an operation may have several.
CREATE TABLE {schema}.transfers (
    number bigserial PRIMARY KEY,
    operation bigint NOT NULL,
    key text,
    source integer NOT NULL,
    target integer NOT NULL,
    amount bigint NOT NULL
);
CREATE INDEX transfers_key ON {schema}.transfers (key);

-- Two legs for each.
CREATE TABLE {schema}.entries (
    transfer bigint NOT NULL REFERENCES {schema}.transfers,
    account integer NOT NULL,
    change bigint NOT NULL,
    balance bigint NOT NULL,
    PRIMARY KEY (transfer, account)
);

-- The largest token with which anybody came, for each key.
CREATE TABLE {schema}.fences (
    key text PRIMARY KEY,
    incarnation bigint NOT NULL,
    sequence bigint NOT NULL
);

-- What the report counts: a row for each time the bank was asked what became of a call, and for each
-- order that it refused because it came too late.
CREATE TABLE {schema}.asked (key text NOT NULL);
CREATE TABLE {schema}.refused (key text NOT NULL);

-- Moves the money, once for every time it is called. Outcomes: 0 done, 1 no funds, 2 too late.
CREATE FUNCTION {schema}.transfer(
    k text, inc bigint, seq bigint, op bigint, source integer, target integer, amount bigint,
    OUT outcome integer, OUT number bigint, OUT source_balance bigint, OUT target_balance bigint
) LANGUAGE plpgsql AS $$
BEGIN
    IF k IS NOT NULL THEN
        INSERT INTO {schema}.fences AS fence VALUES (k, inc, seq)
        ON CONFLICT (key) DO UPDATE SET incarnation = inc, sequence = seq
            WHERE (fence.incarnation, fence.sequence) < (inc, seq);
        IF NOT FOUND THEN
            INSERT INTO {schema}.refused VALUES (k);
            outcome := 2;
            RETURN;
        END IF;
    END IF;
    -- In the same order for everybody, so that two transfers do not wait for each other.
    PERFORM FROM {schema}.accounts a WHERE a.account IN (source, target)
        ORDER BY a.account FOR UPDATE;
    SELECT a.balance INTO source_balance FROM {schema}.accounts a WHERE a.account = source;
    IF source_balance IS NULL OR source_balance < amount THEN
        outcome := 1;
        RETURN;
    END IF;
    UPDATE {schema}.accounts a SET balance = a.balance - amount WHERE a.account = source
        RETURNING a.balance INTO source_balance;
    UPDATE {schema}.accounts a SET balance = a.balance + amount WHERE a.account = target
        RETURNING a.balance INTO target_balance;
    INSERT INTO {schema}.transfers AS made (operation, key, source, target, amount)
        VALUES (op, k, source, target, amount) RETURNING made.number INTO number;
    INSERT INTO {schema}.entries VALUES
        (number, source, -amount, source_balance), (number, target, amount, target_balance);
    outcome := 0;
END
$$;

-- Whether a transfer was made under a key. From then on it is not made with this token or an older
-- one: an order that is still on its way comes too late.
CREATE FUNCTION {schema}.what_became_of(k text, inc bigint, seq bigint)
RETURNS TABLE (number bigint, source_balance bigint, target_balance bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO {schema}.asked VALUES (k);
    -- Waits for an order that is just being carried out: the next statement sees what it did.
    INSERT INTO {schema}.fences AS fence VALUES (k, inc, seq)
    ON CONFLICT (key) DO UPDATE SET incarnation = inc, sequence = seq
        WHERE (fence.incarnation, fence.sequence) < (inc, seq);
    RETURN QUERY
        SELECT made.number, source.balance, target.balance
        FROM {schema}.transfers made
        JOIN {schema}.entries source ON source.transfer = made.number AND source.account = made.source
        JOIN {schema}.entries target ON target.transfer = made.number AND target.account = made.target
        WHERE made.key = k ORDER BY made.number LIMIT 1;
END
$$;
