-- The demo's users. Their passwords are documented: <username>-precinct99.
-- +goose Up
INSERT INTO users (username, email, full_name, password_hash) VALUES
    ('jake', 'jake@precinct99.example', 'Jake Peralta', '$2a$10$Zocw/libIxWEd2CZ7tWjw.E9buJEG9UF9K3.xksATw5SRrjfFLYvG'),
    ('amy', 'amy@precinct99.example', 'Amy Santiago', '$2a$10$xRlHT/NoZIlI1d9hEBC4q.wl9AeyQLovN3ZJ1Sfk0PSdzkPtZLMrq'),
    ('rosa', 'rosa@precinct99.example', 'Rosa Diaz', '$2a$10$rEn37Xt9aVAZrR.i8KSjMOrti0nee2ld20R1F6WDxRi7pNV0qZRZW'),
    ('terry', 'terry@precinct99.example', 'Terry Jeffords', '$2a$10$z1n6m.9m5nzxFFJ82aRPp.ZKVvtNPyjJEL6jnROBJWKfZ7A9mWfX2'),
    ('holt', 'holt@precinct99.example', 'Raymond Holt', '$2a$10$/7K.MqmM8vm.bjEMH9ClAux/OlLZOvCj7j2KI5G/94DhHdgEID4GG'),
    ('charles', 'charles@precinct99.example', 'Charles Boyle', '$2a$10$5AwKVk9408T2Edr95e79FesWQF4dvb9vGFEnJa6FgpeNFBGbusHVK');

-- +goose Down
DELETE FROM users WHERE username IN ('jake', 'amy', 'rosa', 'terry', 'holt', 'charles');
