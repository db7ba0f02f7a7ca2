-- Two groups: who owns the tables, and who may use their rows. Vault makes the users
-- that are members of one of them, and removes them.
CREATE ROLE {{.Database}}_owner NOLOGIN;
CREATE ROLE {{.Database}}_rw NOLOGIN;
REVOKE ALL ON DATABASE {{.Database}} FROM PUBLIC;
GRANT CONNECT, TEMPORARY ON DATABASE {{.Database}} TO {{.Database}}_owner;
GRANT CONNECT ON DATABASE {{.Database}} TO {{.Database}}_rw;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
ALTER SCHEMA public OWNER TO {{.Database}}_owner;
GRANT USAGE ON SCHEMA public TO {{.Database}}_rw;
ALTER DEFAULT PRIVILEGES FOR ROLE {{.Database}}_owner IN SCHEMA public
  GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {{.Database}}_rw;
ALTER DEFAULT PRIVILEGES FOR ROLE {{.Database}}_owner IN SCHEMA public
  GRANT USAGE, SELECT ON SEQUENCES TO {{.Database}}_rw;
