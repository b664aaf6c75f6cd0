use std::os::unix::fs::PermissionsExt as _;

use sallyport_link::{GatewayAddress, Key};
use sallyport_wire::Scope;

use super::*;

fn file(urls: &[&str], keys: usize) -> GatewayFile {
    let address = |url: &&str| GatewayAddress {
        url: url.parse().expect("a URL"),
        pins: Vec::new(),
    };
    let keys = (0..keys).map(|_| Key::generate(Scope::default(), None).expect("a key"));
    GatewayFile {
        gateways: urls.iter().map(address).collect(),
        keys: keys.collect(),
    }
}

#[test]
fn a_folder_is_all_its_json_files_and_one_gateway_is_one_entry() {
    let folder = tempfile::tempdir().expect("a folder");
    let place = |name: &str| folder.path().join(name);
    file(&["https://a.example", "https://b.example"], 1)
        .save(&place("one.json"))
        .expect("written");
    file(&["https://a.example"], 2)
        .save(&place("two.json"))
        .expect("written");
    fs::write(place("notes.txt"), "no gateway file").expect("written");
    fs::write(place(".hidden.json"), "no gateway file").expect("written");
    let mut files = Files::new(vec![folder.path().to_owned()]);

    let wanted = files.read();

    let urls: Vec<_> = wanted.keys().cloned().collect();
    assert_eq!(urls.len(), 2, "{urls:?}");
    assert_eq!(
        wanted
            .values()
            .map(|wanted| wanted.file.keys.len())
            .sum::<usize>(),
        3 + 1
    );
    assert_eq!(files.faults().count(), 0);
}

#[test]
fn a_file_that_is_gone_is_forgotten_and_a_broken_one_keeps_what_it_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("gateway.json");
    let mut files = Files::new(vec![path.clone()]);
    assert!(files.read().is_empty());
    assert_eq!(files.faults().count(), 0, "a file may come later");

    file(&["https://a.example"], 1)
        .save(&path)
        .expect("written");
    assert_eq!(files.read().len(), 1);

    fs::write(&path, "{").expect("written");
    assert_eq!(files.read().len(), 1, "the last good one stays");
    assert_eq!(files.faults().count(), 1);

    file(&["https://b.example"], 1)
        .save(&path)
        .expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("ours");
    assert!(files.read().keys().all(|url| url.contains("a.example")));
    assert!(files.faults().all(|fault| fault.contains("chmod 600")));

    fs::remove_file(&path).expect("removed");
    assert!(files.read().is_empty());
    assert_eq!(files.faults().count(), 0);
}

#[test]
fn a_rotation_is_news_and_the_same_file_is_not() {
    let one = file(&["https://a.example"], 1);
    let mut more = one.clone();
    more.keys
        .push(Key::generate(Scope::default(), None).expect("a key"));
    let wanted = |file: &GatewayFile| merge(&[file]).into_values().next().expect("one gateway");

    assert!(wanted(&one).is_same(&wanted(&one)));
    assert!(!wanted(&one).is_same(&wanted(&more)));
    let same_count = file(&["https://a.example"], 1);
    assert!(!wanted(&one).is_same(&wanted(&same_count)));
}
