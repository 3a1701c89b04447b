//! Sessions: saving, opening and rejection.

use std::fs;
use std::path::Path;

use flash_kv::{
    FORMAT_VERSION, KvError, OpenedSession, PAGE_TOKENS, PageFormat, Session, SessionState, TailPart,
    remove_session, sessions,
};

use crate::support::{N_LAYERS, assert_pages, identity, noise, record, tokens};

fn write_page(session: &Session, token_ids: &[u32], page_idx: u32) {
    for layer_idx in 0..N_LAYERS {
        session
            .pages()
            .write(page_idx, layer_idx, &record(&identity(), token_ids, page_idx, layer_idx))
            .unwrap();
    }
}

/// Saves a session of two pages and 44 more tokens.
fn saved(kv_dir: &Path) -> Vec<u32> {
    let token_ids = tokens(300, 1);
    let mut session = Session::create(kv_dir, "talk", &identity()).unwrap();
    write_page(&session, &token_ids, 0);
    write_page(&session, &token_ids, 1);
    save(&mut session, &token_ids, 256);
    token_ids
}

/// Sizes of the states of layers without keys and values.
const STATE_BYTES: [usize; 2] = [100, 36];

fn seed(part: TailPart) -> u64 {
    match part {
        TailPart::Layer(idx) => idx.into(),
        TailPart::State(idx) => 1000 + u64::from(idx),
    }
}

fn save(session: &mut Session, token_ids: &[u32], first_token: usize) {
    let n_tokens = token_ids.len() - first_token;
    let fill = |part, bytes: &mut [u8]| {
        let bytes_of_layer = 2 * n_tokens * 64 * 2;
        match part {
            TailPart::Layer(_) => {
                assert_eq!(bytes.len(), bytes_of_layer, "keys and values of one head of 64 halves");
            }
            TailPart::State(idx) => assert_eq!(bytes.len(), STATE_BYTES[idx as usize]),
        }
        bytes.copy_from_slice(&noise(bytes.len(), seed(part)));
    };
    let state = SessionState { token_ids, first_token, is_exact: true, state_bytes: &STATE_BYTES };
    session.save(&state, fill).unwrap();
}

fn open(kv_dir: &Path) -> OpenedSession {
    Session::open(kv_dir, "talk", &identity()).unwrap()
}

#[test]
fn saved_session_comes_back_whole() {
    let dir = tempfile::tempdir().unwrap();
    let token_ids = saved(dir.path());
    let opened = open(dir.path());
    assert_eq!((opened.sealed.pages, opened.lost.is_none()), (2, true));
    assert_pages(opened.session.pages(), &token_ids, 2);
    let saved = opened.saved.unwrap();
    assert_eq!((&saved.token_ids, saved.pages), (&token_ids, 2));
    assert_eq!((saved.tail.first_token(), saved.tail.n_tokens()), (256, 44));
    let layers = (0..N_LAYERS).map(|layer_idx| (TailPart::Layer(layer_idx), saved.tail.layer_bytes()));
    for (part, len) in layers.chain((0..).map(TailPart::State).zip(STATE_BYTES)) {
        let mut bytes = vec![0; len];
        saved.tail.read(part, &mut bytes).unwrap();
        assert_eq!(bytes, noise(len, seed(part)), "{part}");
    }
    saved.tail.expect_states(&STATE_BYTES).unwrap();
    for others in [&[][..], &[100], &[36, 100], &[100, 36, 4]] {
        let error = saved.tail.expect_states(others).unwrap_err();
        assert!(matches!(error, KvError::StatesMismatch { .. }), "{error}");
    }
}

#[test]
fn window_may_reach_into_sealed_pages_or_hold_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut token_ids = saved(dir.path());
    let mut opened = open(dir.path());
    token_ids.truncate(290);
    for (first_token, pages) in [(200, 2), (0, 0), (128, 1), (290, 3)] {
        save(&mut opened.session, &token_ids, first_token);
        drop(opened);
        opened = open(dir.path());
        match &opened.saved {
            Some(saved) => assert_eq!((saved.tail.first_token(), saved.pages), (first_token, pages)),
            // A page that was never written.
            None => assert!(matches!(
                opened.lost,
                Some(KvError::SavedPagesMissing { wanted_pages: 3, got_pages: 2, .. })
            )),
        }
    }
    assert!(opened.saved.is_none());
}

#[test]
fn pages_sealed_after_the_last_save_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let mut token_ids = saved(dir.path());
    token_ids.extend(tokens(300, 2));
    let opened = open(dir.path());
    write_page(&opened.session, &token_ids, 2);
    write_page(&opened.session, &token_ids, 3);
    drop(opened);
    let opened = open(dir.path());
    assert_eq!(opened.sealed.token_ids, token_ids[..4 * PAGE_TOKENS]);
    assert_eq!(opened.saved.unwrap().token_ids, token_ids[..300]);
}

#[test]
fn rewound_session_reports_that_its_saved_state_is_lost() {
    let dir = tempfile::tempdir().unwrap();
    let mut token_ids = saved(dir.path());
    let opened = open(dir.path());
    opened.session.pages().truncate(1).unwrap();
    token_ids.splice(128.., tokens(128, 9));
    write_page(&opened.session, &token_ids, 1);
    drop(opened);
    let opened = open(dir.path());
    assert_eq!(opened.sealed.token_ids, token_ids);
    assert!(opened.saved.is_none());
    let lost = opened.lost.unwrap();
    assert!(matches!(lost, KvError::SavedPagesMissing { wanted_pages: 2, got_pages: 1, .. }), "{lost}");
}

#[test]
fn damaged_tail_is_reported_and_pages_stay() {
    let layer_bytes = 44 * 64 * 4;
    let damages = [
        (0, TailPart::Layer(0)),
        (9_000, TailPart::Layer(0)),
        (layer_bytes + 3, TailPart::Layer(1)),
        (N_LAYERS as usize * layer_bytes, TailPart::State(0)),
        (N_LAYERS as usize * layer_bytes + 135, TailPart::State(1)),
    ];
    for (change, damaged) in damages {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path());
        let path = dir.path().join("sessions/talk/tail-1");
        let mut bytes = fs::read(&path).unwrap();
        bytes[change] ^= 0x40;
        fs::write(&path, bytes).unwrap();
        let opened = open(dir.path());
        assert_eq!((opened.sealed.pages, opened.saved.is_none()), (2, true));
        match opened.lost.unwrap() {
            KvError::TailDamaged { path: at, part, .. } => {
                assert_eq!((at, part), (path, damaged));
            }
            error => panic!("{error}"),
        }
    }
}

#[test]
fn truncated_tail_is_reported() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let tail = fs::OpenOptions::new().write(true).open(dir.path().join("sessions/talk/tail-1")).unwrap();
    tail.set_len(10).unwrap();
    assert!(matches!(open(dir.path()).lost, Some(KvError::TailDamaged { part: TailPart::Layer(0), .. })));
}

#[test]
fn changed_manifest_is_reported_and_pages_stay() {
    let path = |dir: &Path| dir.join("sessions/talk/session.json");
    let lost_after = |change: &dyn Fn(String) -> String| {
        let dir = tempfile::tempdir().unwrap();
        saved(dir.path());
        let json = fs::read_to_string(path(dir.path())).unwrap();
        fs::write(path(dir.path()), change(json)).unwrap();
        let opened = open(dir.path());
        assert_eq!((opened.sealed.pages, opened.saved.is_none()), (2, true));
        opened.lost
    };
    let last = tokens(300, 1)[299];
    let token = lost_after(&|json| json.replace(&format!("{last}]"), &format!("{}]", last ^ 1)));
    assert!(matches!(token, Some(KvError::SessionDamaged { .. })), "{token:?}");
    let cut = lost_after(&|json| json[..json.len() / 2].to_owned());
    assert!(matches!(cut, Some(KvError::SessionSyntax { .. })), "{cut:?}");
    let of_version = |version| format!(r#""version":{version},"#);
    let version = lost_after(&|json| json.replace(&of_version(FORMAT_VERSION), &of_version(7)));
    assert!(matches!(version, Some(KvError::VersionMismatch { got: 7, .. })), "{version:?}");
    let model = lost_after(&|json| json.replace(r#""identity":""#, r#""identity":"0"#));
    assert!(matches!(model, Some(KvError::SessionDamaged { .. })), "{model:?}");
}

#[test]
fn session_of_another_model_or_quantisation_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let mut other = identity();
    other.model.0[0] ^= 1;
    assert!(matches!(Session::open(dir.path(), "talk", &other), Err(KvError::ModelMismatch { .. })));
    let mut other = identity();
    other.geometry.format = PageFormat::Int8;
    assert!(matches!(Session::open(dir.path(), "talk", &other), Err(KvError::FormatMismatch { .. })));
}

#[test]
fn session_in_use_is_locked_also_for_removal() {
    let dir = tempfile::tempdir().unwrap();
    saved(dir.path());
    let opened = open(dir.path());
    assert!(matches!(Session::open(dir.path(), "talk", &identity()), Err(KvError::Locked { .. })));
    assert!(matches!(remove_session(dir.path(), "talk"), Err(KvError::Locked { .. })));
    drop(opened);
    assert_eq!(sessions(dir.path()).unwrap().len(), 1);
    remove_session(dir.path(), "talk").unwrap();
    assert!(sessions(dir.path()).unwrap().is_empty());
}

#[test]
fn sessions_are_listed_with_their_size() {
    let dir = tempfile::tempdir().unwrap();
    assert!(sessions(dir.path()).unwrap().is_empty());
    saved(dir.path());
    Session::create(dir.path(), "another", &identity()).unwrap();
    let found = sessions(dir.path()).unwrap();
    assert_eq!(found.iter().map(|session| &*session.name).collect::<Vec<_>>(), ["another", "talk"]);
    assert_eq!(found[0].stored_bytes, 4096);
    assert!(found[1].stored_bytes > 4096 && found[1].modified.is_some());
}

#[test]
fn missing_session_is_an_error_and_an_existing_one_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(Session::open(dir.path(), "talk", &identity()), Err(KvError::NoSession { .. })));
    assert!(matches!(remove_session(dir.path(), "talk"), Err(KvError::NoSession { .. })));
    let token_ids = saved(dir.path());
    assert!(matches!(Session::create(dir.path(), "talk", &identity()), Err(KvError::Exists { .. })));
    assert_eq!(open(dir.path()).saved.unwrap().token_ids, token_ids);
}

#[test]
fn invalid_names_are_rejected() {
    let dir = tempfile::tempdir().unwrap();
    let long = "a".repeat(65);
    for name in ["", ".", "..", ".a", "-a", "a/b", "a b", "ä", "a\0", &long] {
        let refused = Session::create(dir.path(), name, &identity()).unwrap_err();
        assert!(matches!(&refused, KvError::SessionName { name: got } if got == name), "{refused}");
        assert!(matches!(Session::open(dir.path(), name, &identity()), Err(KvError::SessionName { .. })));
        assert!(matches!(remove_session(dir.path(), name), Err(KvError::SessionName { .. })));
    }
    for name in ["a", "_", "Ab.c-1", &long[..64]] {
        Session::create(dir.path(), name, &identity()).unwrap();
    }
}
