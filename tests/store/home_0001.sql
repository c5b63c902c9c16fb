-- The tables of a home of version 0.1.0, before revisions were counted.
CREATE TABLE api_keys (
	id VARCHAR NOT NULL, 
	name VARCHAR NOT NULL, 
	hash BLOB NOT NULL, 
	created_at FLOAT NOT NULL, 
	expires_at FLOAT, 
	revoked_at FLOAT, 
	PRIMARY KEY (id), 
	UNIQUE (hash)
);
CREATE TABLE key_grants (
	key_id VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	role VARCHAR NOT NULL, 
	duties JSON NOT NULL, 
	models JSON NOT NULL, 
	PRIMARY KEY (key_id)
);
CREATE TABLE test_openings (
	id INTEGER NOT NULL, 
	digest VARCHAR NOT NULL, 
	at FLOAT NOT NULL, 
	model VARCHAR NOT NULL, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_test_openings_digest ON test_openings (digest);
CREATE TABLE audit_events (
	seq INTEGER NOT NULL, 
	epoch INTEGER NOT NULL, 
	body BLOB NOT NULL, 
	hash BLOB NOT NULL, 
	mac BLOB NOT NULL, 
	PRIMARY KEY (seq)
);
CREATE INDEX ix_audit_events_epoch ON audit_events (epoch);
CREATE TABLE audit_checkpoints (
	epoch INTEGER NOT NULL, 
	seq INTEGER NOT NULL, 
	hash BLOB NOT NULL, 
	next BLOB NOT NULL, 
	at FLOAT NOT NULL, 
	signature BLOB NOT NULL, 
	PRIMARY KEY (epoch)
);
CREATE TABLE vault_masters (
	id VARCHAR(32) NOT NULL, 
	version INTEGER NOT NULL, 
	source VARCHAR NOT NULL, 
	parameters JSON NOT NULL, 
	"check" BLOB NOT NULL, 
	created_at FLOAT NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (version)
);
CREATE TABLE vault_keys (
	serial INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	id VARCHAR(32) NOT NULL, 
	kind VARCHAR NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	version INTEGER NOT NULL, 
	under VARCHAR(32) NOT NULL, 
	wrapped BLOB NOT NULL, 
	created_at FLOAT NOT NULL, 
	UNIQUE (tenant, kind, name, version), 
	UNIQUE (id)
);
CREATE INDEX ix_vault_keys_under ON vault_keys (under);
CREATE TABLE vault_objects (
	serial INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, 
	tenant VARCHAR NOT NULL, 
	object VARCHAR(32) NOT NULL, 
	version INTEGER NOT NULL, 
	patient VARCHAR(32) NOT NULL, 
	wrapped BLOB NOT NULL, 
	size BIGINT NOT NULL, 
	segment_bytes INTEGER NOT NULL, 
	created_at FLOAT NOT NULL, 
	UNIQUE (tenant, object, version)
);
CREATE INDEX ix_vault_objects_patient ON vault_objects (patient);
CREATE TABLE vault_receipts (
	id VARCHAR(32) NOT NULL, 
	tenant VARCHAR NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	"key" VARCHAR(32) NOT NULL, 
	objects INTEGER NOT NULL, 
	at FLOAT NOT NULL, 
	finished_at FLOAT, 
	PRIMARY KEY (id)
);
CREATE INDEX ix_vault_receipts_name ON vault_receipts (name);
