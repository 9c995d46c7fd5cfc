-- The shop's order database: two tenants, and a reader who sees the rows of one tenant at a time. Run as superuser, repeatably.

CREATE SCHEMA IF NOT EXISTS shop;

CREATE TABLE IF NOT EXISTS shop.orders (
    tenant           text   NOT NULL,
    order_id         text   NOT NULL,
    customer_number  text   NOT NULL,
    customer_name    text   NOT NULL,
    customer_email   text   NOT NULL,
    item             text   NOT NULL,
    amount_usd_cents bigint NOT NULL CHECK (amount_usd_cents > 0),
    status           text   NOT NULL CHECK (status IN ('paid', 'shipped', 'delivered', 'returned', 'cancelled')),
    ordered_on       date   NOT NULL,
    delivered_on     date,
    PRIMARY KEY (tenant, order_id)
);

ALTER TABLE shop.orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE shop.orders FORCE ROW LEVEL SECURITY;
DROP POLICY IF EXISTS own_tenant ON shop.orders;
CREATE POLICY own_tenant ON shop.orders FOR SELECT TO shop_reader
    USING (tenant = current_setting('holdfast.tenant', true));

REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA shop TO shop_reader;
GRANT SELECT ON shop.orders TO shop_reader;

INSERT INTO shop.orders VALUES
    ('acme',   'A-1001', 'C-2201', 'Ines Albrecht',   'ines.albrecht@customer.example',  'Trekking poles, pair',       6450, 'delivered', '2026-05-04', '2026-05-08'),
    ('acme',   'A-1002', 'C-2202', 'Tom Okafor',      'tom.okafor@customer.example',     'Rain jacket, size L',       12900, 'delivered', '2026-05-06', '2026-05-11'),
    ('acme',   'A-1003', 'C-2203', 'Maria Lindgren',  'maria.lindgren@customer.example', 'Camping lantern',            3490, 'delivered', '2026-05-11', '2026-05-15'),
    ('acme',   'A-1004', 'C-2204', 'Paul Dubois',     'paul.dubois@customer.example',    'Folding chair',              4200, 'returned',  '2026-05-12', '2026-05-18'),
    ('acme',   'A-1005', 'C-2205', 'Grace Whitfield', 'grace.whitfield@customer.example','Water filter',               2795, 'delivered', '2026-05-14', '2026-05-19'),
    ('acme',   'A-1006', 'C-2206', 'Kenji Mori',      'kenji.mori@customer.example',     'Head torch',                 5600, 'shipped',   '2026-05-20', NULL),
    ('acme',   'A-1007', 'C-2207', 'Jörg Weiß',       'joerg.weiss@customer.example',    'Schlafsack «Nordlicht»',     5990, 'delivered', '2026-05-15', '2026-05-29'),
    ('acme',   'A-1008', 'C-2208', 'Ruth Adeyemi',    'ruth.adeyemi@customer.example',   'Sleeping mat',               8850, 'delivered', '2026-05-17', '2026-05-22'),
    ('acme',   'A-1009', 'C-2209', 'Helen Brandt',    'helen.brandt@customer.example',   'Expedition tent, 4 persons',48900, 'delivered', '2026-05-18', '2026-05-26'),
    ('acme',   'A-1010', 'C-2210', 'Sam Keller',      'sam.keller@customer.example',     'Gas stove',                  7300, 'paid',      '2026-06-01', NULL),
    ('acme',   'A-1011', 'C-2211', 'Lucia Ferraro',   'lucia.ferraro@customer.example',  'Insulated bottle',           2250, 'delivered', '2026-05-21', '2026-05-25'),
    ('acme',   'A-1012', 'C-2212', 'Victor Stone',    'victor.stone@customer.example',   'Compass',                    1990, 'delivered', '2026-05-22', '2026-05-27'),
    ('globex', 'G-9001', 'C-7701', 'Anders Holm',     'anders.holm@customer.example',    'Espresso machine',          64900, 'delivered', '2026-05-02', '2026-05-07'),
    ('globex', 'G-9002', 'C-7702', 'Beatriz Campos',  'beatriz.campos@customer.example', 'Burr grinder',              18900, 'delivered', '2026-05-05', '2026-05-09'),
    ('globex', 'G-9003', 'C-7703', 'Chen Wei',        'chen.wei@customer.example',       'Milk jug',                   2400, 'delivered', '2026-05-07', '2026-05-12'),
    ('globex', 'G-9004', 'C-7704', 'Diane Kowalski',  'diane.kowalski@customer.example', 'Coffee subscription, 1 year',31200, 'paid',     '2026-05-09', NULL),
    ('globex', 'G-9005', 'C-7705', 'Emil Novak',      'emil.novak@customer.example',     'Descaler, six pack',         2900, 'shipped',   '2026-05-13', NULL),
    ('globex', 'G-9006', 'C-7706', 'Fatima Haddad',   'fatima.haddad@customer.example',  'Cup set',                    5400, 'delivered', '2026-05-14', '2026-05-18'),
    ('globex', 'G-9007', 'C-7707', 'George Papas',    'george.papas@customer.example',   'Tamper',                     3100, 'returned',  '2026-05-15', '2026-05-19'),
    ('globex', 'G-9008', 'C-7708', 'Hana Sato',       'hana.sato@customer.example',      'Pour-over kit',              4650, 'delivered', '2026-05-16', '2026-05-21'),
    ('globex', 'G-9009', 'C-7709', 'Ivan Petrov',     'ivan.petrov@customer.example',    'Kettle',                     8900, 'delivered', '2026-05-19', '2026-05-23'),
    ('globex', 'G-9010', 'C-7710', 'Julia Romero',    'julia.romero@customer.example',   'Filter papers',              1200, 'cancelled', '2026-05-20', NULL),
    ('globex', 'G-9011', 'C-7711', 'Karl Jensen',     'karl.jensen@customer.example',    'Scale',                      6900, 'delivered', '2026-05-22', '2026-05-27'),
    ('globex', 'G-9012', 'C-7712', 'Lena Vogel',      'lena.vogel@customer.example',     'Water softener',             7800, 'delivered', '2026-05-24', '2026-05-29')
ON CONFLICT (tenant, order_id) DO NOTHING;
