//! The tables of a read model's versions: each version has a schema of its own, made after the live one.

use sqlx::{Connection, Executor, PgConnection};

use crate::rebuild::RebuildError;
use crate::runner::ReadModel;

/// The tables of a version, by name.
pub(crate) async fn tables(
    connection: &mut PgConnection,
    read_model: ReadModel,
    version: i32,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar("select tablename::text from pg_tables where schemaname = $1 order by 1")
        .bind(read_model.schema(version))
        .fetch_all(connection)
        .await
}

/// Makes empty tables of the live ones' shape, to be filled up to a position. Their indexes, keys among them, come when they
/// are.
pub(crate) async fn make(
    connection: &mut PgConnection,
    read_model: ReadModel,
    (live, version): (i32, i32),
    fills_to: i64,
) -> Result<(), RebuildError> {
    let (old, new) = (read_model.schema(live), read_model.schema(version));
    let mut transaction = connection.begin().await?;
    transaction
        .execute(format!("create schema {new}").as_str())
        .await?;
    for table in tables(&mut transaction, read_model, live).await? {
        let copy = format!("create table {new}.{table} (like {old}.{table} including all excluding indexes)");
        transaction.execute(copy.as_str()).await?;
    }
    // Whoever may use the live tables may use these.
    let grants: Vec<String> = sqlx::query_scalar(
        "select format('grant %s on schema %I to %s', privilege_type, $2, who)
         from (select (aclexplode(nspacl)).*, nspowner as owner from pg_namespace where nspname = $1) granted,
              lateral (select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as who) named
         where grantee <> owner
         union all
         select format('grant %s on %I.%I to %s', privilege_type, $2, relname, who)
         from (select (aclexplode(relacl)).*, relname, relowner as owner from pg_class
               where relnamespace = $1::regnamespace and relkind = 'r') granted,
              lateral (select case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as who) named
         where grantee <> owner",
    )
    .bind(&old)
    .bind(&new)
    .fetch_all(&mut *transaction)
    .await?;
    for grant in grants {
        transaction.execute(grant.as_str()).await?;
    }
    sqlx::query("insert into read_models (name, version, revision, fills_to) values ($1, $2, $3, $4)")
        .bind(read_model.name())
        .bind(version)
        .bind(read_model.revision())
        .bind(fills_to)
        .execute(&mut *transaction)
        .await?;
    Ok(transaction.commit().await?)
}

/// Makes the indexes, keys among them, that the live version has and this one has not.
pub(crate) async fn index(
    connection: &mut PgConnection,
    read_model: ReadModel,
    version: i32,
) -> Result<(), sqlx::Error> {
    let live: i32 = sqlx::query_scalar("select version from read_models where name = $1 and is_live")
        .bind(read_model.name())
        .fetch_one(&mut *connection)
        .await?;
    let definitions: Vec<String> = sqlx::query_scalar(
        "select case when c.oid is not null
                then format('alter table %I.%I add constraint %I %s', $2, t.relname, c.conname, pg_get_constraintdef(c.oid))
                else replace(pg_get_indexdef(i.indexrelid), format(' ON %I.', $1), format(' ON %I.', $2))
                end
         from pg_index i
         join pg_class t on t.oid = i.indrelid
         join pg_class x on x.oid = i.indexrelid
         left join pg_constraint c on c.conindid = i.indexrelid and c.contype in ('p', 'u')
         where t.relnamespace = $1::regnamespace
           and not exists (select from pg_class made where made.relnamespace = $2::regnamespace and made.relname = x.relname)
         order by c.oid is null, x.relname",
    )
    .bind(read_model.schema(live))
    .bind(read_model.schema(version))
    .fetch_all(&mut *connection)
    .await?;
    for definition in definitions {
        connection.execute(definition.as_str()).await?;
    }
    Ok(())
}

/// Drops a version that is not the live one; waits for who still reads it.
pub(crate) async fn drop(
    connection: &mut PgConnection,
    read_model: ReadModel,
    version: i32,
) -> Result<(), RebuildError> {
    let mut transaction = connection.begin().await?;
    let dropped = sqlx::query("delete from read_models where name = $1 and version = $2 and not is_live")
        .bind(read_model.name())
        .bind(version)
        .execute(&mut *transaction)
        .await?;
    if dropped.rows_affected() == 1 {
        let schema = read_model.schema(version);
        transaction
            .execute(format!("drop schema if exists {schema} cascade").as_str())
            .await?;
    }
    Ok(transaction.commit().await?)
}
